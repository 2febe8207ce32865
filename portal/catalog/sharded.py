"""A dataset that stays where it lies, in shards: what they are, and what a sample of their rows says of all.

Reads the beginnings of some shards, never all of any. Writes nothing; knows nothing of the database.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from portal.catalog import rows, store
from workers.contract.errors import Refused
from workers.contract.names import is_shard

SHARDS_READ = 20
ROWS_READ = 100
"""Of each of those shards."""
COUNTED = 2**20
"""Bytes, unzipped, in which the rows of a shard are counted; the rest has as many."""
LONGEST_ROW = 16 * 2**20


@dataclass(frozen=True)
class Sampled:
    """`files`: (name, bytes) of every shard. `sample`: canonical rows. `row_count` is about what all have."""

    files: list[tuple[str, int]]
    format: str
    sample: list[rows.Row]
    row_count: int


def sample(uri: str, format_: str, field: str) -> Sampled:
    """What a folder of shards holds. Raises Refused at `field`, for the first row that is bad by shard and number."""
    files = [(name, size) for name, size in store.files(uri) if is_shard(name)]
    if not files:
        raise Refused.at(
            field, uri, f"{field}: {uri!r} holds no shards; use .jsonl, .ndjson, .txt (also .gz) or .parquet files."
        )
    good: list[rows.Row] = []
    size_judged, rows_about = 0, 0.0
    for name, size in files[:: -(-len(files) // SHARDS_READ)]:
        if not size:
            continue
        with store.open_read(f"{uri.rstrip('/')}/{name}") as file:
            numbered, about = _beginning(file, name, size, field)
        if format_ == "auto" and numbered:
            format_ = rows.detect(numbered, name, field)
        for number, row in numbered:
            outcome = row if isinstance(row, str) else rows.judged(row, format_)
            if isinstance(outcome, str):
                raise Refused.at(field, number, f"{field}: row {number} of {name}: {outcome}.")
            good.append(outcome)
        size_judged, rows_about = size_judged + size, rows_about + about
    if not good:
        raise Refused.at(field, uri, f"{field}: the shards at {uri!r} have no rows.")
    if format_ == "text_label":
        raise Refused.at(
            field, uri, f"{field}: rows of text and label must all be read to know the labels; give them in one file."
        )
    return Sampled(files, format_, good, round(rows_about * sum(size for _, size in files) / size_judged))


def _beginning(file: IO[bytes], name: str, size: int, field: str) -> tuple[list[tuple[int, rows.Row | str]], float]:
    """The first rows with their numbers, and about how many there are in the file."""
    try:
        if name.lower().endswith(".parquet"):
            return _parquet(file)
        plain = gzip.GzipFile(fileobj=file) if name.lower().endswith(".gz") else file
        lines: list[bytes] = []
        read = count = 0
        for line in _lines(plain, name, field):
            read, count = read + len(line), count + 1
            if count <= ROWS_READ:
                lines.append(line)
            if read >= COUNTED and count >= ROWS_READ:
                break
        whole = not plain.read(1)
        about = count if whole else count * size / max(1, min(size, file.tell()))
    except Refused:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise Refused.at(field, name, f"{field}: {name} can't be read ({str(error)[:120]}).") from None
    text = name.lower().removesuffix(".gz").endswith(".txt")
    return [(number, _text(line) if text else rows.line(line)) for number, line in enumerate(lines, 1)], about


def _lines(file: IO[bytes] | gzip.GzipFile, name: str, field: str) -> Iterator[bytes]:
    while line := file.readline(LONGEST_ROW):
        if len(line) == LONGEST_ROW:
            raise Refused.at(field, name, f"{field}: {name} has a row of over {LONGEST_ROW // 2**20} MiB.")
        if line.strip():
            yield line


def _text(line: bytes) -> rows.Row | str:
    try:
        return {"text": line.decode("utf-8-sig").rstrip("\r\n")}
    except UnicodeDecodeError:
        return "it is not UTF-8 text"


def _parquet(file: IO[bytes]) -> tuple[list[tuple[int, rows.Row | str]], float]:
    from pyarrow.parquet import ParquetFile

    table = ParquetFile(file)
    first = next(table.iter_batches(ROWS_READ), None)
    found = first.to_pylist() if first is not None else []
    return list(enumerate(found, 1)), table.metadata.num_rows
