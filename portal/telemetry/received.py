"""Which of an attempt's events have arrived: all up to one, and stretches beyond a gap. Pure.

Knows nothing of what the events say.
"""

from collections.abc import Iterable
from dataclasses import dataclass

Stretch = tuple[int, int]
"""First and last sequence number of events that arrived without a gap between them."""


@dataclass(frozen=True)
class Received:
    """Sequence numbers 1 to `upto`, and those of `ahead`: apart from each other and from `upto`, in order."""

    upto: int = 0
    ahead: tuple[Stretch, ...] = ()

    def __contains__(self, seq: int) -> bool:
        return seq <= self.upto or any(first <= seq <= last for first, last in self.ahead)

    @property
    def whole(self) -> bool:
        """Whether no event before the latest is missing."""
        return not self.ahead

    @property
    def missing(self) -> tuple[Stretch, ...]:
        """The gaps, in order."""
        starts = [self.upto, *(last for _, last in self.ahead)]
        return tuple((start + 1, first - 1) for start, (first, _) in zip(starts, self.ahead, strict=False))

    def plus(self, seqs: Iterable[int]) -> "Received":
        """With these too, in any order and however often."""
        stretches = sorted([(0, self.upto), *self.ahead, *((seq, seq) for seq in seqs if seq > self.upto)])
        joined = [stretches[0]]
        for first, last in stretches[1:]:
            if first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(joined[-1][1], last))
            else:
                joined.append((first, last))
        return Received(joined[0][1], tuple(joined[1:]))

    def without_gaps(self) -> "Received":
        """As if what is missing had arrived: nobody waits for it any more."""
        return Received(self.ahead[-1][1] if self.ahead else self.upto)
