"""Artifacts of runs, for download. Knows nothing of which job made them."""

from typing import IO

from portal.catalog import store
from portal.catalog.store import Unreachable

__all__ = ["Unreachable", "list_artifact", "open_artifact"]


def open_artifact(uri: str) -> IO[bytes]:
    """One file of the store, opened for reading. Raises FileNotFoundError, Unreachable or UnsafeURI."""
    return store.open_read(uri)


def list_artifact(uri: str) -> list[tuple[str, int]]:
    """(relative name, bytes) of the files of one artifact. Raises Unreachable or UnsafeURI."""
    return store.files(uri)
