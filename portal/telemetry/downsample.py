"""Min–max downsampling: fewer points, no lost peak. Pure."""

from typing import TypedDict


class Point(TypedDict):
    """One value of a series. `at` in Unix seconds; `step` None for sampled values."""

    attempt: int
    seq: int
    step: int | None
    at: float
    value: float


def min_max(points: list[Point], limit: int) -> list[Point]:
    """At most `limit` of `points`, in order: of each equal bucket the lowest and the highest.

    The first and last point always stay, so a curve keeps its ends. `limit` is at least 4.
    """
    if len(points) <= limit:
        return points
    inner, buckets = points[1:-1], (limit - 2) // 2
    kept = [points[0]]
    for index in range(buckets):
        bucket = inner[index * len(inner) // buckets : (index + 1) * len(inner) // buckets]
        low = min(range(len(bucket)), key=lambda i: bucket[i]["value"])
        high = max(range(len(bucket)), key=lambda i: bucket[i]["value"])
        kept.extend(bucket[i] for i in sorted({low, high}))
    return [*kept, points[-1]]
