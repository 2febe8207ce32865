"""The stored files that go with the database: which ones, and how they come back without a half-done state.

Knows nothing of rows or archives.
"""

import secrets
from collections.abc import Iterable, Iterator
from typing import IO

from django.apps.registry import Apps

from portal.catalog import store
from portal.local.backup.archive import BackupError
from workers.contract.names import STORE_SCHEME, UnsafeURI, store_uri

FOLDER = "store/"
"""Members below it are files of the store, by their names there."""


def named(apps: Apps, *, models: bool) -> list[str]:
    """store:// URIs of the adapters and datasets, and with `models` of the models, that the catalog names."""
    wanted = [("adapter", "uri"), ("dataset", "train_uri"), ("dataset", "test_uri")]
    uris: set[str] = set()
    for label, column in [*wanted, *([("modelprofile", "uri")] if models else [])]:
        rows = apps.get_model("catalog", label)._base_manager.values_list(column, flat=True)
        uris.update(uri for uri in rows if uri.startswith(f"{STORE_SCHEME}://"))
    return sorted(uris)


def inside(uri: str) -> Iterator[tuple[str, int]]:
    """(URI, bytes) of every file at or below `uri`; none when there is nothing."""
    try:
        folder = store.is_folder(uri)
        for name, size in store.files(uri):
            yield (f"{uri.rstrip('/')}/{name}" if folder else uri), size
    except (UnsafeURI, OSError) as error:
        raise BackupError(f"{uri} can't be read: {str(error).rstrip('.')}.") from error


def member(uri: str) -> str:
    """The member's name of a store:// file."""
    return FOLDER + uri.removeprefix(f"{STORE_SCHEME}://")


class Staging:
    """Restored files: aside until `publish` puts them in their places, from where `take_back` takes them again."""

    def __init__(self) -> None:
        self._aside = f".restore-{secrets.token_hex(6)}"
        self._names: list[str] = []
        self._moves: list[tuple[str, str]] = []
        """(from, to) URIs of what `publish` has moved, in order."""

    def add(self, name: str, content: IO[bytes]) -> None:
        """Keep one member's content aside. Raises BackupError."""
        relative = name.removeprefix(FOLDER)
        try:
            store.locate(store_uri(relative))
            store.write(store_uri(self._aside, "new", relative), content)
        except (UnsafeURI, OSError) as error:
            raise BackupError(f"{name} can't be put into the artifact store: {str(error).rstrip('.')}.") from error
        self._names.append(relative)

    @property
    def count(self) -> int:
        """Files so far."""
        return len(self._names)

    def publish(self) -> None:
        """Move every file to its place, and aside what was there. Raises BackupError."""
        for relative in self._names:
            place = store_uri(relative)
            try:
                if store.exists(place):
                    self._move(place, store_uri(self._aside, "old", relative))
                self._move(store_uri(self._aside, "new", relative), place)
            except OSError as error:
                raise BackupError(f"{relative} can't be put into the artifact store: {error.strerror}.") from error

    def take_back(self) -> None:
        """Undo what `publish` did, as far as it came."""
        while self._moves:
            source, target = self._moves.pop()
            store.move(target, source)

    def discard(self) -> None:
        """Remove what is aside."""
        store.remove(store_uri(self._aside))

    def _move(self, source: str, target: str) -> None:
        store.move(source, target)
        self._moves.append((source, target))


def unique(uris: Iterable[str]) -> Iterator[tuple[str, int]]:
    """As `inside`, of all of them, each file once."""
    seen: set[str] = set()
    for uri in uris:
        for file, size in inside(uri):
            if file not in seen:
                seen.add(file)
                yield file, size
