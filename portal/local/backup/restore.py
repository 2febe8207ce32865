"""Restores a backup: checks all of it first, then everything or nothing, then this version's migrations.

Knows nothing of the command line, nor whether a portal runs meanwhile.
"""

from pathlib import Path
from typing import NamedTuple

from django.db import DatabaseError, OperationalError, connection
from django.db.models import Model

from portal.accounts.services import audit
from portal.local.backup import files, schema, tables
from portal.local.backup.archive import Archive, BackupError, Header, Manifest


class Restored(NamedTuple):
    """What came back."""

    liftoff: str
    """Version that made the backup."""
    made_at: str
    rows: int
    files: int
    migrated: int
    """Migrations that ran forward afterwards."""
    missing: tuple[str, ...]
    """URIs that the store hadn't when the backup was made."""


def restore(path: Path, *, replace: bool = False) -> Restored:
    """Put back what `path` holds; `replace` gives up what the database has. Raises BackupError, and then nothing
    is restored.
    """
    with Archive(path) as archive:
        header, manifest = archive.header, archive.manifest
        if unknown := schema.first_unknown(header.migrations):
            raise BackupError(
                f"{path} was made by Liftoff {header.liftoff} with the migration {unknown[0]}.{unknown[1]}, which "
                "this Liftoff doesn't have; restore it with that version or a newer one."
            )
        staging = files.Staging()
        try:
            rows, migrated = _apply(archive, staging, replace)
        except BaseException as error:
            staging.take_back()
            if isinstance(error, DatabaseError):
                raise BackupError(_refused(error)) from error
            raise
        finally:
            staging.discard()
    return Restored(header.liftoff, header.made_at, rows, staging.count, migrated, manifest.missing)


def _apply(archive: Archive, staging: files.Staging, replace: bool) -> tuple[int, int]:
    """(rows, migrations that ran forward), once all is in its place. Files come before the rows that name them."""
    if not replace and not schema.is_empty(schema.models_at(schema.applied())):
        raise BackupError("The database isn't empty; restore into an empty one, or give up what it has with --replace.")
    with schema.one_transaction():
        rows = _fill(archive, staging)
        migrated = schema.forward()
        audit(None, "restore backup", f"backup of {archive.header.made_at}", f"{rows} rows from {archive.path.name}")
        staging.publish()
    return rows, len(migrated)


def _fill(archive: Archive, staging: files.Staging) -> int:
    """Files aside, tables as they were; how many rows."""
    header, manifest = archive.header, archive.manifest
    apps = schema.rebuild(header.migrations)
    known = {label: model for label, model in tables.tables(apps).items() if label != tables.SESSIONS}
    _check_tables(header, known)
    rows = dict.fromkeys(known, 0)
    current = ""
    for name, content in archive.members():
        if name.startswith(files.FOLDER):
            staging.add(name, content)
            continue
        label = name.removeprefix(tables.FOLDER).split("/")[0]
        if label not in known:
            raise BackupError(f"The backup holds {name}, which is neither a table nor a file; nothing was restored.")
        if label != current:
            _check_while_filling(not tables.refers_to_itself(known[label]))
            current = label
        rows[label] += tables.load(known[label], content)
    _check_while_filling(True)
    connection.check_constraints()
    _check_rows(rows, manifest)
    tables.reset_sequences(list(known.values()))
    return sum(rows.values())


def _check_tables(header: Header, known: dict[str, type[Model]]) -> None:
    expected = {label: tables.columns(model) for label, model in known.items()}
    if different := sorted(
        label for label in expected.keys() | header.tables.keys() if expected.get(label) != header.tables.get(label)
    ):
        raise BackupError(
            f"The backup's table {different[0]} has other columns than this Liftoff's at the same migration; "
            "restore it with the versions of the packages that made it."
        )


def _check_rows(rows: dict[str, int], manifest: Manifest) -> None:
    for label, count in rows.items():
        if count != manifest.rows.get(label):
            raise BackupError(
                f"The backup has {count} rows of {label} and says {manifest.rows.get(label)}; nothing was restored."
            )


def _check_while_filling(now: bool) -> None:
    """Check foreign keys row by row, or later; PostgreSQL would keep a note of every row till the end."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET CONSTRAINTS ALL {'IMMEDIATE' if now else 'DEFERRED'}")


def _refused(error: DatabaseError) -> str:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if isinstance(error, OperationalError):
        return f"The database can't be restored into ({cause}); stop what uses it and try again."
    return f"The database refused the backup ({cause}); nothing was restored."
