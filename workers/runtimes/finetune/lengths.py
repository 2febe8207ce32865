"""Orders in which samples of like length share a batch, so that little of it is padding.

Knows nothing of what the samples are.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TypeVar

from torch.utils.data import Sampler

GROUPED = 50
"""Batches of samples, drawn by chance, that are sorted together."""

Item = TypeVar("Item")


def by_length(
    items: Sequence[Item], length: Callable[[Item], int], batch: int, pending: int, random: Random
) -> list[Item]:
    """The items with those of like length in a batch, and the batches in no order.

    `pending` items already wait for the first batch; a batch that isn't full comes last.
    """
    ordered = sorted(items, key=length)
    lead = -pending % batch
    start = random.randrange(max(1, len(ordered) - lead + 1))
    first, rest = ordered[start : start + lead], ordered[:start] + ordered[start + lead :]
    batches = [rest[index : index + batch] for index in range(0, len(rest), batch)]
    last = batches.pop() if batches and len(batches[-1]) < batch else []
    random.shuffle(batches)
    return list(itertools.chain(first, *batches, last))


class LengthSampler(Sampler[int]):  # type: ignore[misc]  # the library is untyped
    """Places of samples in an order by length that is another in each epoch, and the same whenever it is asked for."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, epoch: Callable[[], int]) -> None:
        self._lengths = lengths
        self._batch = batch
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        random = Random(f"{self._seed} {self._epoch()}")  # noqa: S311 - to be repeated, not to be secret
        places = random.sample(range(len(self)), len(self))
        for start in range(0, len(self), GROUPED * self._batch):
            group = places[start : start + GROUPED * self._batch]
            yield from by_length(group, self._lengths.__getitem__, self._batch, 0, random)
