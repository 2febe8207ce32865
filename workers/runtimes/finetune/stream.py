"""Which reader gives which samples of a dataset in which order, so that any place in it can be gone back to.

Every epoch the shards are put in a new order and their rows dealt out to the readers in stretches that differ by one
row at most. A reader takes a window of rows, shuffles, sorts or packs their samples (a long text has several), and
gives the items out in batches, which are always full. So its cursor says all: no buffer is lost with it. (The
`datasets` library's streaming loses its shuffle buffer on resuming, leaves readers beyond the number of shards idle,
and can't tell how many rows there are.)

Knows nothing of processes, tensors or files.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal, NamedTuple, cast

from workers.runtimes.finetune.lengths import by_length
from workers.runtimes.finetune.packing import Item, Pack, packed
from workers.runtimes.finetune.pairs import Pair
from workers.runtimes.finetune.samples import Sample
from workers.runtimes.finetune.shards import Raw, Row, Shard, parse, raw_rows

Arrangement = Literal["shuffled", "by_length", "packed"]


class Cursor(NamedTuple):
    """Where a reader is: `items` of its window number `window` are given out, which are `rows` rows, the last of them
    perhaps in part."""

    window: int = 0
    items: int = 0
    rows: float = 0


START = Cursor()


@dataclass(frozen=True)
class Reading:
    """How a dataset is read. `shards` are counted; `window` is in rows, `batch` in items, `capacity` in tokens."""

    shards: Sequence[Shard]
    readers: int
    window: int
    batch: int
    arrangement: Arrangement
    capacity: int
    seed: int

    @cached_property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def share(self, reader: int) -> tuple[int, int]:
        """(first, stop): the rows of an epoch's order that are this reader's."""
        return reader * self.rows // self.readers, (reader + 1) * self.rows // self.readers

    def windows(self, reader: int) -> int:
        """Windows of one epoch."""
        first, stop = self.share(reader)
        return -(-(stop - first) // self.window)

    def given(self, reader: int, cursor: Cursor) -> float:
        """Rows that the reader has given out, in all epochs."""
        first, stop = self.share(reader)
        epoch, window = divmod(cursor.window, self.windows(reader))
        return epoch * (stop - first) + window * self.window + cursor.rows

    def at(self, reader: int, given: float) -> Cursor:
        """The cursor at which a reader that neither packs nor divides rows has given out so many whole ones."""
        first, stop = self.share(reader)
        epoch, row = divmod(int(given), stop - first)
        window, rest = divmod(row, self.window)
        return Cursor(epoch * self.windows(reader) + window, rest, rest)

    def order(self, epoch: int) -> list[Shard]:
        """The shards as they follow each other in an epoch; as they were found where nothing is shuffled."""
        order = list(self.shards)
        if self.window > 1:
            Random(f"{self.seed} {epoch}").shuffle(order)  # noqa: S311 - to be repeated, not to be secret
        return order


class Reader:
    """One of the readers of a dataset, from a cursor on, for ever."""

    def __init__(self, reading: Reading, number: int, samples: Callable[[Row, str], Sequence[Sample | Pair]]) -> None:
        """`samples` makes tokens of a row, of which it is told where it is."""
        self._reading = reading
        self._number = number
        self._samples = samples

    def batches(self, cursor: Cursor = START) -> Iterator[tuple[list[Item], Cursor]]:
        """Full batches after `cursor`, each with the cursor after it."""
        batch: list[Item] = []
        rows = self._rows(cursor.window)
        for window in itertools.count(cursor.window):
            # Cursors lie after full batches, so one within a window says how many waited when the window began.
            pending = (len(batch) - cursor.items) % self._reading.batch
            for item in self._items(window, next(rows), pending)[cursor.items :]:
                batch.append(item)
                cursor = Cursor(window, cursor.items + 1, cursor.rows + _rows(item))
                if len(batch) == self._reading.batch:
                    yield batch, cursor
                    batch = []
            cursor = Cursor(window + 1)

    def _rows(self, window: int) -> Iterator[list[tuple[Raw, Shard, int]]]:
        """The rows of each window from `window` on, in the order they lie in."""
        reading = self._reading
        first, stop = reading.share(self._number)
        epoch, skipped = divmod(window, reading.windows(self._number))
        start = first + skipped * reading.window
        while True:
            rows = self._stretch(epoch, start, stop)
            while taken := list(itertools.islice(rows, reading.window)):
                yield taken
            epoch, start = epoch + 1, first

    def _stretch(self, epoch: int, start: int, stop: int) -> Iterator[tuple[Raw, Shard, int]]:
        """The rows `start` to `stop` of an epoch's order, with where they are."""
        before = 0
        for shard in self._reading.order(epoch):
            low, high = max(start - before, 0), min(stop - before, shard.rows)
            if low < high:
                for number, raw in zip(range(low, high), raw_rows(shard, low), strict=False):
                    yield raw, shard, number
            before += shard.rows

    def _items(self, window: int, rows: list[tuple[Raw, Shard, int]], pending: int) -> Sequence[Item]:
        """What the window gives out, where `pending` items wait for the first batch."""
        reading = self._reading
        random = Random(f"{reading.seed} {self._number} {window}")  # noqa: S311 - as above
        samples = [
            sample
            for raw, shard, number in rows
            for sample in self._samples(parse(raw, shard, number), f"row {number + 1} of {shard.name}")
        ]
        if reading.window > 1:
            random.shuffle(samples)
        if reading.arrangement == "packed":
            packs = packed(cast(list[Sample], samples), reading.capacity)  # pairs are never packed
            random.shuffle(packs)
            return packs
        if reading.arrangement == "by_length":
            return by_length(samples, len, reading.batch, pending, random)
        return samples


def _rows(item: Item) -> float:
    """How many rows the item is."""
    if isinstance(item, Pack):
        return sum(sample.share for sample in item.samples)
    return item.share if isinstance(item, Sample) else 1
