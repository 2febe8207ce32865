"""Artifacts of runs, for download. Knows nothing of which job made them."""

from typing import IO

from portal.catalog import store


def open_artifact(uri: str) -> IO[bytes]:
    """One file of the store, opened for reading. Raises FileNotFoundError or UnsafeURI."""
    return store.open_read(uri)


def list_artifact(uri: str) -> list[tuple[str, int]]:
    """(relative name, bytes) of the files of one artifact."""
    return store.files(uri)
