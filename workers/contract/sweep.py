"""What an all-reduce sweep measured on a node: sums of many sizes, and a training step, between 1 to n processes.

Does not know how anything is measured, nor which job asked.
"""

from math import log2
from typing import Literal, NamedTuple

from pydantic import Field, FiniteFloat

from workers.contract.base import Contract

RESULT = "all_reduce_sweep"
"""Name of the Result event that carries a Sweep."""

Ranks = Field(ge=1, le=4096)


class Sum(Contract):
    """An all-reduce of so many bytes between so many processes."""

    ranks: int = Field(ge=2, le=4096)
    bytes: int = Field(ge=1, le=2**50)
    seconds: FiniteFloat = Field(gt=0, le=1e6)

    @property
    def bus_bytes_per_s(self) -> float:
        """2(n-1)/n x bytes / s, what each link carries (NCCL-tests, doc/PERFORMANCE.md)."""
        return 2 * (self.ranks - 1) / self.ranks * self.bytes / self.seconds


class Step(Contract):
    """A training step of each process on data of its own, its gradients summed after it."""

    ranks: int = Ranks
    seconds: FiniteFloat = Field(gt=0, le=1e6)


class Doubling(NamedTuple):
    """From one step to the next: the share by which each doubling of the processes made it longer."""

    before: Step
    after: Step
    overhead: float


class Sweep(Contract):
    """One sweep, smallest first."""

    at: FiniteFloat = Field(ge=0, le=1e11, description="Unix seconds when it began.")
    took_s: FiniteFloat = Field(ge=0, description="Seconds.")
    backend: Literal["gloo", "nccl"]
    between: str = Field(max_length=200, description="What was joined, in words.")
    step: str = Field(max_length=200, description="The training step, in words.")
    sums: tuple[Sum, ...] = Field(min_length=1, max_length=1000)
    steps: tuple[Step, ...] = Field(max_length=20)

    @property
    def most_ranks(self) -> int:
        return max(one.ranks for one in self.sums)

    @property
    def fastest(self) -> Sum:
        return max(self.sums, key=lambda one: one.bus_bytes_per_s)

    @property
    def doublings(self) -> list[Doubling]:
        """Between each two neighbours of its steps."""
        return [
            Doubling(before, after, (after.seconds / before.seconds) ** (1 / log2(after.ranks / before.ranks)) - 1)
            for before, after in zip(self.steps, self.steps[1:], strict=False)
            if after.ranks > before.ranks
        ]
