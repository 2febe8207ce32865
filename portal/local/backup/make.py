"""Makes a backup: one moment of the database, and the files that it names, into one file.

Others may write meanwhile. Knows nothing of the command line.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from django.db import connection, transaction

from portal.catalog import store
from portal.local.backup import files, schema, tables
from portal.local.backup.archive import HEADER, ArchiveWriter, BackupError, Header


class Made(NamedTuple):
    """What a backup holds. Sizes in bytes."""

    rows: int
    files: int
    bytes: int
    packed_bytes: int
    missing: tuple[str, ...]
    """URIs that the catalog names and the store doesn't have."""


def make(path: Path, *, models: bool = False) -> Made:
    """Back up to a new file at `path`; with `models`, their weights too where the store has them.

    Raises BackupError, and then there is no file.
    """
    with ArchiveWriter(path) as archive, _one_moment():
        names = schema.applied()
        if not names:
            raise BackupError("The database has no tables yet; there is nothing to back up.")
        apps = schema.models_at(names)
        kept = {label: model for label, model in tables.tables(apps).items() if label != tables.SESSIONS}
        header = Header(
            liftoff=version("liftoff"),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            engine=connection.vendor,
            migrations=tuple(names),
            tables={label: tables.columns(model) for label, model in kept.items()},
        )
        archive.add(HEADER, header.model_dump_json(indent=1).encode())
        stored, missing = _add_files(archive, files.named(apps, models=models))
        rows = dict.fromkeys(kept, 0)
        for label, model in kept.items():
            for number, (part, count) in enumerate(tables.parts(model), 1):
                archive.add(f"{tables.FOLDER}{label}/{number:06}.jsonl", part)
                rows[label] += count
        packed = archive.finish(rows, missing)
        return Made(sum(rows.values()), stored, archive.size, packed, missing)


def _add_files(archive: ArchiveWriter, uris: list[str]) -> tuple[int, tuple[str, ...]]:
    """(files added, URIs of which there is none)."""
    missing = tuple(uri for uri in uris if not any(files.inside(uri)))
    count = 0
    for uri, size in files.unique(uris):
        try:
            with store.open_read(uri) as content:
                archive.add_stream(files.member(uri), content, size)
        except FileNotFoundError:
            raise BackupError(f"{uri} was deleted while it was read; back up again.") from None
        count += 1
    return count, missing


@contextmanager
def _one_moment() -> Iterator[None]:
    """Every read sees the database as the first one did, and holds up no writer."""
    if connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
        return
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")  # atomic() would take the lock that writers need
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")
