"""Rows as JSON lines and back: one array a row, in parts of a few MiB, table by table in foreign-key order.

Reads and writes through the models of a migration state, so it also knows tables as an older release had them.
Knows nothing of files or archives.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from graphlib import TopologicalSorter
from typing import IO, Any, cast
from uuid import UUID

from django.apps.registry import Apps
from django.core.exceptions import ValidationError
from django.core.management.color import no_style
from django.db import DatabaseError, OperationalError, connection, connections
from django.db.models import (
    BooleanField,
    CharField,
    Field,
    FloatField,
    ForeignKey,
    IntegerField,
    Model,
    TextField,
)

from portal.local.backup.archive import BackupError

PART_BYTES = 4 * 2**20
FOLDER = "tables/"
"""Members below it are parts of a table, in a folder of its label."""
SESSIONS = "sessions.session"
"""Left out: a session's key is all that a browser shows to be let in. Everyone signs in again after a restore."""


def tables(apps: Apps) -> dict[str, type[Model]]:
    """Label → model of every table, those that others refer to first."""
    models = {
        model._meta.label_lower: model
        for model in apps.get_models(include_auto_created=True)
        if model._meta.managed and not model._meta.proxy
    }
    before: dict[str, set[str]] = {}
    for label, model in sorted(models.items()):
        targets = {field.related_model._meta.label_lower for field in _foreign_keys(model)}
        before[label] = targets - {label}
    return {label: models[label] for label in TopologicalSorter(before).static_order()}


def columns(model: type[Model]) -> tuple[str, ...]:
    """The attributes that a row's values belong to."""
    return tuple(field.attname for field in model._meta.concrete_fields)


def parts(model: type[Model]) -> Iterator[tuple[bytes, int]]:
    """(JSON lines, rows in them) of a whole table, in order of its key."""
    rows = model._base_manager.order_by("pk").values_list(*columns(model)).iterator(chunk_size=2000)
    lines: list[str] = []
    size = 0
    for row in rows:
        lines.append(json.dumps(row, default=_plain, separators=(",", ":")) + "\n")
        size += len(lines[-1])
        if size >= PART_BYTES:
            yield "".join(lines).encode("ascii"), len(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines).encode("ascii"), len(lines)


def load(model: type[Model], content: IO[bytes]) -> int:
    """Put the rows of one part into the table as they were, keys included; how many. Raises BackupError."""
    rows = _Rows(model, content)
    table, names = _quoted(model._meta.db_table), ", ".join(_quoted(field.column) for field in rows.fields)
    try:
        with connection.wrap_database_errors, connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
            else:
                marks = ", ".join(["%s"] * len(rows.fields))
                statement = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 - a model's own names
                cursor.executemany(statement, cast(Any, rows))  # one at a time
    except OperationalError:
        raise
    except (DatabaseError, ValueError, ValidationError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise BackupError(
            f"A row of {model._meta.label_lower} can't be stored in this database ({cause}); nothing was restored."
        ) from error
    return rows.count


def refers_to_itself(model: type[Model]) -> bool:
    """Whether its rows may name later rows of the same table."""
    return any(field.related_model is model for field in _foreign_keys(model))


def reset_sequences(models: Sequence[type[Model]]) -> None:
    """Let each table number its next row after its last. SQLite does so by itself."""
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), list(models)):
            cursor.execute(statement)


class _Rows:
    """A part's rows as the database's driver takes them, one after the other."""

    def __init__(self, model: type[Model], content: IO[bytes]) -> None:
        self.fields: Sequence[Field[Any, Any]] = model._meta.concrete_fields
        self.count = 0
        self._content = content
        self._database = connections[connection.alias]  # `connection` looks it up at each use, which is slow
        self._converted = [(place, field) for place, field in enumerate(self.fields) if not _is_plain(field)]

    def __iter__(self) -> Iterator[list[Any]]:
        loads, clean = json.loads, self._database.vendor == "postgresql"
        for line in self._content:
            values = loads(line)
            if clean and b"\\u" in line:
                values = _storable(values)
            if len(values) != len(self.fields):
                raise ValueError(f"it has {len(values)} values for {len(self.fields)} columns")
            for place, field in self._converted:
                values[place] = field.get_db_prep_save(field.to_python(values[place]), self._database)
            self.count += 1
            yield values


def _is_plain(field: "Field[Any, Any]") -> bool:
    """Whether its values are the same in JSON as in the database."""
    while isinstance(field, ForeignKey):
        field = field.target_field
    return isinstance(field, IntegerField | FloatField | CharField | TextField | BooleanField)


def _quoted(name: str | None) -> str:
    return connection.ops.quote_name(name or "")


def _storable(value: Any) -> Any:
    """PostgreSQL's text holds neither NUL nor half a surrogate pair; SQLite's may."""
    if isinstance(value, str):
        return value.replace("\0", "�").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return value


def _plain(value: object) -> str:
    """Values that JSON has no form for; Field.to_python reads them back exactly."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise BackupError(f"A value of type {type(value).__name__} can't be backed up yet.")


def _foreign_keys(model: type[Model]) -> Iterator[Any]:
    return (field for field in model._meta.local_fields if field.remote_field is not None)
