"""The files a dataset lies in: what they are, how many rows each has, and their rows from any one on.

JSON lines, text (a line is a row) and Parquet, the first two also gzipped; on a disk, or wherever fsspec reaches.
Never holds more than a few rows. Knows nothing of tokens, of order, or of who reads which row.
"""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import IO, Any

import fsspec

from workers.contract.names import is_shard
from workers.runtimes.base import invalid, local_path, missing

Row = dict[str, Any]
Raw = bytes | Row
"""A row as its file has it: a line, or the columns of a Parquet file."""

READ_AHEAD = 2**20
"""Bytes of a file that are held; what reads from afar would hold fifty times as many."""
PARQUET_ROWS = 256
"""Rows of a Parquet file that are decoded at a time."""


@dataclass(frozen=True)
class Shard:
    """One file. `name` tells it apart from the others; `rows` once they are counted."""

    place: str
    name: str
    bytes: int
    rows: int = 0

    @property
    def zipped(self) -> bool:
        return self.name.lower().endswith(".gz")

    @property
    def kind(self) -> str:
        """'parquet', 'txt', or JSON lines."""
        return self.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]


def find_shards(*places: str, field: str = "dataset") -> list[Shard]:
    """The files at `places`, paths or URLs: each a file, or a folder whose data files count, in order of name.

    Raises RunFailed where there is nothing.
    """
    found: list[Shard] = []
    for place in places:
        try:
            remote = "://" in place and not place.startswith("file://")
            fs, path = fsspec.core.url_to_fs(place if remote else str(local_path(place, field)))
            inside = fs.find(path, detail=True) if fs.isdir(path) else {path: fs.info(path)}
        except (OSError, ImportError, ValueError) as error:
            raise missing(f"{field}: {place!r} can't be read ({error}).") from error
        folder = path.rstrip("/") + "/"
        for file, info in sorted(inside.items()):
            name = file.removeprefix(folder) if file != path else file.rsplit("/", 1)[-1]
            if file == path or is_shard(name):
                found.append(Shard(fs.unstrip_protocol(file), name, int(info["size"])))
    if not found:
        raise invalid(f"dataset: there is no JSONL, text or Parquet file at {' or '.join(map(repr, places))}.")
    return found


def counted(shard: Shard) -> Shard:
    """The shard with its rows counted: a Parquet file by what it says itself, others by reading them once."""
    with _opened(shard) as file:
        if shard.kind == "parquet":
            return replace(shard, rows=_parquet(file).metadata.num_rows)
        return replace(shard, rows=sum(1 for line in file if line.strip()))


def raw_rows(shard: Shard, start: int = 0) -> Iterator[Raw]:
    """The rows from number `start` (from 0) on; empty lines are no rows."""
    with _opened(shard) as file:
        if shard.kind == "parquet":
            yield from _parquet_rows(file, start)
        else:
            yield from islice((line for line in file if line.strip()), start, None)


def parse(raw: Raw, shard: Shard, number: int) -> Row:
    """The row numbered `number` (from 0). Raises RunFailed naming the file and the row that is none."""
    if not isinstance(raw, bytes):
        return raw
    try:
        if shard.kind == "txt":
            return {"text": raw.decode("utf-8-sig" if number == 0 else "utf-8").rstrip("\r\n")}
        row = json.loads(raw)
    except ValueError as error:
        what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise invalid(f"dataset: row {number + 1} of {shard.name} is not {what} ({error}).") from error
    if not isinstance(row, dict):
        raise invalid(f"dataset: row {number + 1} of {shard.name} is not a JSON object.")
    return row


def read_rows(shards: Sequence[Shard], limit: int | None = None) -> list[Row]:
    """All their rows, or the first `limit`. Raises RunFailed where there are none."""
    rows = [
        parse(raw, shard, number)
        for shard, number, raw in islice(
            ((shard, number, raw) for shard in shards for number, raw in enumerate(raw_rows(shard))), limit
        )
    ]
    if not rows:
        raise invalid(f"dataset: {shards[0].name} has no rows.")
    return rows


@contextmanager
def _opened(shard: Shard) -> Iterator[IO[bytes]]:
    """The file's bytes, unzipped. Raises RunFailed naming it for whatever is wrong with it, also while it is read."""
    try:
        fs, path = fsspec.core.url_to_fs(shard.place)
        with fs.open(path, "rb", block_size=READ_AHEAD, compression="gzip" if shard.zipped else None) as file:
            yield io.BufferedReader(file, READ_AHEAD) if shard.kind != "parquet" else file
    except FileNotFoundError as error:
        raise missing(f"dataset: {shard.name} is not there any more.") from error
    except (OSError, EOFError, ValueError) as error:  # also what gzip, Arrow and remote stores raise
        raise invalid(f"dataset: {shard.name} can't be read ({str(error)[:200]}).") from error


def _parquet(file: IO[bytes]) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(file, pre_buffer=False)


def _parquet_rows(file: IO[bytes], start: int) -> Iterator[Row]:
    table = _parquet(file)
    groups = [table.metadata.row_group(index).num_rows for index in range(table.num_row_groups)]
    first = 0
    while first < len(groups) and start >= groups[first]:
        start -= groups[first]
        first += 1
    if first == len(groups):
        return
    for batch in table.iter_batches(PARQUET_ROWS, row_groups=list(range(first, len(groups)))):
        rest = batch.slice(min(start, batch.num_rows))
        start -= batch.num_rows - rest.num_rows
        yield from rest.to_pylist()
