"""Feeds a trainer with a streamed dataset: readers spread over worker processes, batches in a fixed order.

The order depends on the number of readers alone, neither on how many processes serve them here nor on how many ranks
share them: rank r of w is given batches r, r + w, ... of one sequence. Knows nothing of files or of what trains.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from workers.contract.finetune import FinetuneSpec
from workers.contract.order import DatasetInput
from workers.contract.reasons import Reason
from workers.runtimes.base import RunFailed, invalid
from workers.runtimes.finetune.packing import Item, as_example, packed
from workers.runtimes.finetune.samples import samples_at
from workers.runtimes.finetune.shards import Shard, counted, parse, raw_rows
from workers.runtimes.finetune.stream import START, Arrangement, Cursor, Reader, Reading
from workers.runtimes.team import rank, world_size

Batch = dict[str, torch.Tensor]
Collate = Callable[[list[dict[str, Any]]], Batch]
Given = tuple[int, Cursor, Batch]
"""Reader, its cursor after the batch, the batch."""


class Failure(NamedTuple):
    """Why a reader gives nothing more."""

    reason: Reason
    detail: str


AUTO_BYTES = 256 * 2**20
"""Data of more than this is streamed where the spec leaves it open."""
SQUEEZED = 4
"""Text is about so many times smaller in gzip or Parquet."""
PROBED = 512
"""Rows that tell how many items a row makes."""


@dataclass(frozen=True)
class Rank:
    """Which of the processes that train on different data this one is."""

    number: int = 0
    of: int = 1


ALONE = Rank()


def data_rank(spec: FinetuneSpec) -> Rank:
    """This process's place among those that train on different data. Tensor-parallel processes are neighbours; those
    of one pipeline stage are."""
    copies = world_size() // spec.parallel.split
    return Rank(rank() // spec.parallel.tensor if spec.parallel.pipeline == 1 else rank() % copies, copies)


def is_streamed(spec: FinetuneSpec, shards: Sequence[Shard]) -> bool:
    """Whether the data is read while training, instead of into memory before."""
    if spec.data.streaming == "auto":
        plain = (shard.bytes * (SQUEEZED if shard.zipped or shard.kind == "parquet" else 1) for shard in shards)
        return sum(plain) > AUTO_BYTES
    return spec.data.streaming == "on"


class Feed:
    """An endless series of batches for one rank; goes on from where a state was taken."""

    def __init__(
        self,
        spec: FinetuneSpec,
        shards: Sequence[Shard],
        dataset: DatasetInput,
        tokenizer: Any,
        collate: Collate,
        rank: Rank = ALONE,
    ) -> None:
        """Counts the rows first. Raises RunFailed where a file can't be read or there are too few."""
        self._rank = rank
        self._collate = collate
        self._samples = partial(samples_at, dataset=dataset, tokenizer=tokenizer, context_length=spec.context_length)
        self._is_text = dataset.format == "text"
        self._spec = spec
        shards = [counted(shard) for shard in shards]
        rows = sum(shard.rows for shard in shards)
        if rows < rank.of:
            raise invalid(f"dataset: {rows} rows are too few for {rank.of} processes.")
        readers = min(max(1, spec.data.workers), rows // rank.of) * rank.of
        arrangement: Arrangement = "packed" if spec.packing else spec.data.batching
        self.reading = Reading(
            tuple(shards),
            readers,
            spec.data.shuffle_buffer,
            spec.micro_batch,
            arrangement,
            spec.context_length,
            spec.seed,
        )
        self._cursors = [START] * readers
        self._batches = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the run. Of packs and of parts of texts it is known only about how many an epoch has."""
        if self._spec.max_steps:
            return self._spec.max_steps
        step = self._spec.micro_batch * self._spec.gradient_accumulation * self._rank.of
        return max(1, -(-int(self._spec.epochs * float(self.reading.rows * self._items_per_row())) // step))

    @property
    def epoch(self) -> float:
        """Passes over the data so far, by this rank's readers."""
        mine = range(self._rank.number, self.reading.readers, self._rank.of)
        rows = sum(stop - first for first, stop in map(self.reading.share, mine))
        return sum(self.reading.given(reader, self._cursors[reader]) for reader in mine) / rows

    def state(self) -> dict[str, Any]:
        """What another feed goes on from, after the last batch given out. With several ranks all must ask for it."""
        cursors = self._cursors
        if self._rank.of > 1:
            everyone: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everyone, (self._rank.number, cursors))
            by_rank = dict(everyone)
            cursors = [by_rank[reader % self._rank.of][reader] for reader in range(self.reading.readers)]
        return {
            "shards": self._shards(),
            "cursors": [list(cursor) for cursor in cursors],
            "batches": self._batches * self._rank.of,
        }

    def go_on(self, state: dict[str, Any]) -> None:
        """Go on after the batch at which the state was taken, by as many ranks or by others.

        Exact where the readers can be shared out evenly, else near. Raises RunFailed for a state of other data.
        """
        if state["shards"] != self._shards():
            raise invalid("dataset: its files are not those that the checkpoint was trained on; start a new job.")
        cursors = [Cursor(*cursor) for cursor in state["cursors"]]
        now, then = self.reading, replace(self.reading, readers=len(state["cursors"]))
        if len(cursors) % self._rank.of == 0:
            self.reading, self._cursors = then, cursors
            self._batches = state["batches"] // self._rank.of
            return
        done = sum(then.given(reader, cursor) for reader, cursor in enumerate(cursors))
        shared = f"{len(cursors)} readers can't be shared by {self._rank.of} processes"
        print(f"{shared}; data goes on at about row {done:.0f}.")
        self._cursors = [now.at(reader, done / now.readers) for reader in range(now.readers)]
        self._batches = 0

    def _shards(self) -> list[list[Any]]:
        return [[shard.name, shard.bytes, shard.rows] for shard in self.reading.shards]

    def __iter__(self) -> Iterator[Batch]:
        loader: DataLoader[Given | Failure] = DataLoader(
            _Source(self._mine(), self._collate),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=(processes := self._processes()),
            prefetch_factor=2 if processes else None,
            worker_init_fn=_prepare_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.reading.seed),  # the global one is the model's
        )
        for given in loader:
            if isinstance(given, Failure):
                raise RunFailed(given.reason, given.detail)
            reader, cursor, batch = given
            self._cursors[reader] = cursor
            self._batches += 1
            yield batch

    def _mine(self) -> list[tuple[int, Iterator[tuple[list[Item], Cursor]]]]:
        """This rank's readers, the one whose turn it is first."""
        numbers = list(range(self._rank.number, self.reading.readers, self._rank.of))
        turn = self._batches % len(numbers)
        return [
            (number, Reader(self.reading, number, self._samples).batches(self._cursors[number]))
            for number in numbers[turn:] + numbers[:turn]
        ]

    def _processes(self) -> int:
        """Worker processes: as many as serve equally many readers each and leave this process a core; 0 reads here."""
        if not self._spec.data.workers:
            return 0
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        allowed = len(os.sched_getaffinity(0)) // ranks_here - 1
        readers = self.reading.readers // self._rank.of
        return max((n for n in range(1, readers + 1) if readers % n == 0 and n <= allowed), default=0)

    def _items_per_row(self) -> Fraction:
        if self.reading.arrangement != "packed" and not self._is_text:
            return Fraction(1)
        some = [shard for shard in self.reading.shards if shard.rows][:: max(1, len(self.reading.shards) // 8)]
        probed, samples = 0, list[Any]()
        for shard in some:
            for number, raw in enumerate(itertools.islice(raw_rows(shard), PROBED // len(some) + 1)):
                samples += self._samples(parse(raw, shard, number), f"row {number + 1} of {shard.name}")
                probed += 1
        items = packed(samples, self.reading.capacity) if self.reading.arrangement == "packed" else samples
        return Fraction(len(items), probed)


class _Source(IterableDataset[Given | Failure]):  # type: ignore[misc]  # the library is untyped
    """Batches of the readers in turn; in a worker process, of those that are its own."""

    def __init__(self, readers: list[tuple[int, Iterator[tuple[list[Item], Cursor]]]], collate: Collate) -> None:
        self._readers = readers
        self._collate = collate

    def __iter__(self) -> Iterator[Given | Failure]:
        worker = get_worker_info()
        mine = self._readers[worker.id :: worker.num_workers] if worker else self._readers
        try:
            for number, batches in itertools.cycle(mine):
                items, cursor = next(batches)
                yield number, cursor, self._collate([as_example(item) for item in items])
        except RunFailed as failed:
            yield Failure(failed.reason, failed.detail)  # raised here it would lose its reason on its way


def _prepare_worker(_: int) -> None:
    """Out of the group that is told to stop, which is the trainer's matter; and neither fsspec's threads nor the
    tokenizers' survive a fork."""
    os.setpgid(0, 0)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with contextlib.suppress(ImportError):
        import fsspec.asyn

        fsspec.asyn.iothread[0] = fsspec.asyn.loop[0] = None
    fsspec.AbstractFileSystem.clear_instance_cache()


def _as_it_is(given: Given | Failure) -> Given | Failure:
    return given
