"""Min–max downsampling: fewer points, no lost peak. Pure."""

from collections.abc import Sequence
from typing import TypedDict


class Point(TypedDict):
    """One value of a series. `at` in Unix seconds; `step` None for sampled values."""

    attempt: int
    seq: int
    step: int | None
    at: float
    value: float


def min_max(values: Sequence[float], limit: int) -> list[int]:
    """Places in `values`, in order, of at most `limit` that draw the same curve: of each equal bucket the lowest and
    the highest.

    The first and last always stay, so a curve keeps its ends. `limit` is at least 4.
    """
    if len(values) <= limit:
        return list(range(len(values)))
    inner, buckets = len(values) - 2, (limit - 2) // 2
    kept = [0]
    for bucket in range(buckets):
        start, end = 1 + bucket * inner // buckets, 1 + (bucket + 1) * inner // buckets
        held = values[start:end]
        low, high = start + held.index(min(held)), start + held.index(max(held))
        kept.extend(sorted({low, high}))
    return [*kept, len(values) - 1]
