"""Reads and checks the rows of a dataset file: JSONL, JSON, CSV or Parquet, in one of five formats.

Every bad row is reported with its number and reason. Pure but for parsing; knows nothing of files or the database.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from portal.catalog import turns
from workers.contract.errors import FieldError, Refused

MAX_SHOWN = 20
NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""NUL and halves of surrogate pairs: JSON can spell them, UTF-8 or a database can't hold them."""
Row = dict[str, Any]
REQUIRED = {
    "preference": ("prompt", "chosen", "rejected"),
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "text_label": ("text", "label"),
    "text": ("text",),
}


def read(data: bytes, name: str, field: str) -> list[tuple[int, Row | str]]:
    """(row number from 1, row or why it can't be read). Raises Refused at `field` for a file that is no dataset."""
    suffix = name.lower().rsplit(".", 1)[-1] if "." in name else ""
    if not data.strip():
        raise Refused.at(field, name, f"{field}: {name!r} is empty.")
    if suffix == "parquet" or data[:4] == b"PAR1":
        return _parquet(data, name, field)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused.at(
            field, name, f"{field}: {name!r} is no dataset: it is not text; use JSONL, JSON, CSV or Parquet."
        ) from None
    if suffix == "csv":
        return _csv(text, name, field)
    if suffix == "json" or text.lstrip()[:1] == "[":
        return _json(text, name, field)
    if suffix in ("jsonl", "ndjson") or text.lstrip()[:1] == "{":
        return _jsonl(text, name, field)
    raise Refused.at(field, name, f"{field}: {name!r} is no dataset: it is neither JSONL, JSON, CSV nor Parquet.")


def detect(rows: list[tuple[int, Row | str]], name: str, field: str) -> str:
    """The format the first readable row has. Raises Refused at `field`."""
    for _, row in rows:
        if isinstance(row, dict):
            for format_, needed in REQUIRED.items():
                if all(key in row for key in needed):
                    return format_
            keys = ", ".join(sorted(row)[:6]) or "none"
            raise Refused.at(
                field,
                name,
                f"{field}: the columns of {name!r} ({keys}) fit no format; "
                "use messages, prompt and completion, text and label, text, or prompt, chosen and rejected.",
            )
    raise Refused.at(
        field,
        name,
        f"{field}: {name!r} is no dataset: none of its rows can be read ({rows[0][1] if rows else 'no rows'}).",
    )


def check(rows: list[tuple[int, Row | str]], format_: str, field: str) -> list[Row]:
    """The canonical rows. Raises Refused with one error a bad row, at most MAX_SHOWN and a count of the rest."""
    good: list[Row] = []
    bad: list[FieldError] = []
    for number, row in rows:
        outcome = row if isinstance(row, str) else judged(row, format_)
        if isinstance(outcome, str):
            bad.append(FieldError(field, number, f"{field}: row {number}: {outcome}."))
        else:
            good.append(outcome)
    if len(bad) > MAX_SHOWN:
        bad = [*bad[:MAX_SHOWN], FieldError(field, None, f"{field}: {len(bad) - MAX_SHOWN} more rows are bad.")]
    if bad:
        raise Refused(bad)
    if not good:
        raise Refused.at(field, None, f"{field}: the file has no rows.")
    return good


def judged(row: Row, format_: str) -> Row | str:
    """As `canonical`; also bad is what a database can't hold."""
    outcome = canonical(row, format_)
    if isinstance(outcome, dict) and not _storable(outcome):
        return "it holds a NUL or half of a surrogate pair, which is not text"
    return outcome


def line(data: bytes) -> Row | str:
    """The row of one line of JSON lines, or why it is none."""
    try:
        return _object(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "it is not UTF-8 text"


def _storable(row: Row) -> bool:
    """Whether files and databases can hold its text."""
    return not any(NO_TEXT.search(turns.text_of(value)) for value in row.values())


def canonical(row: Row, format_: str) -> Row | str:
    """The row with its format's keys alone, or the reason it is bad."""
    for key in REQUIRED[format_]:
        if row.get(key) in (None, ""):
            return f"{key!r} is missing or empty"
    if format_ == "messages":
        return turns.conversation(row["messages"])
    if format_ == "preference":
        return turns.preference(row)
    out: Row = {}
    for key in REQUIRED[format_]:
        value = row[key]
        if key == "label" and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            return f"{key!r} is {type(value).__name__}, not text"
        if not value.strip():
            return f"{key!r} is blank"
        out[key] = value.strip() if key == "label" else value
    return out


def _jsonl(text: str, name: str, field: str) -> list[tuple[int, Row | str]]:
    return [(number, _object(line)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _object(line: str) -> Row | str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return "it is not valid JSON"
    return value if isinstance(value, dict) else "it is not a JSON object"


def _json(text: str, name: str, field: str) -> list[tuple[int, Row | str]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused.at(field, name, f"{field}: {name!r} is not valid JSON ({str(error)[:100]}).") from None
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list):
        raise Refused.at(field, name, f"{field}: {name!r} is no dataset: it is not a list of objects.")
    return [(n, row if isinstance(row, dict) else "it is not a JSON object") for n, row in enumerate(value, 1)]


def _csv(text: str, name: str, field: str) -> list[tuple[int, Row | str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return [(number, _cells(row)) for number, row in enumerate(reader, 2)]
    except csv.Error as error:
        raise Refused.at(field, name, f"{field}: {name!r} is no readable CSV ({error}).") from None


def _cells(row: dict[Any, Any]) -> Row | str:
    return "it has more cells than the header" if None in row else row


def _parquet(data: bytes, name: str, field: str) -> list[tuple[int, Row | str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise Refused.at(field, name, f"{field}: {name!r} is no readable Parquet file ({str(error)[:120]}).") from None
    return list(_numbered(table.to_pylist()))


def _numbered(rows: list[Row]) -> Iterator[tuple[int, Row | str]]:
    yield from enumerate(rows, 1)
