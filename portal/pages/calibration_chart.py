"""Predicted against measured as shapes of an SVG, in percent of the drawing, so that it fits any width.

Both axes are logarithmic and have the same bounds, so the diagonal is where the two agree. Pure: knows no records.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, floor, log

from portal.pages.quantities import duration, size

LEFT, RIGHT, TOP, BOTTOM = 19.0, 94.0, 8.0, 84.0
"""Edges of the plot, percent of the drawing; the axis labels stand outside of it."""
MOST_TICKS = 5
BYTE_STEP, SECOND_STEP = 2.0, 10.0
"""From one tick of an axis to the next: doublings of bytes, tenfold seconds."""


@dataclass(frozen=True)
class Pair:
    """One run: what was said, what came of it, and the words for both. `kind` is the goal, for its colour."""

    predicted: float
    measured: float
    kind: str
    label: str


@dataclass(frozen=True)
class Point:
    """Where a run is drawn."""

    x: str
    y: str
    kind: str
    label: str


@dataclass(frozen=True)
class Tick:
    """A label at `x` of the lower axis and at `y` of the left one."""

    x: str
    y: str
    text: str


@dataclass(frozen=True)
class Scatter:
    """Everything the template draws. The diagonal goes from the lower left of the plot to its upper right."""

    points: list[Point]
    ticks: list[Tick]
    kinds: list[str]


def of_bytes(pairs: Iterable[Pair]) -> Scatter | None:
    """The drawing of bytes; None without any."""
    return _scatter(list(pairs), BYTE_STEP, size)


def of_seconds(pairs: Iterable[Pair]) -> Scatter | None:
    """The drawing of seconds; None without any."""
    return _scatter(list(pairs), SECOND_STEP, duration)


def _scatter(pairs: list[Pair], base: float, shown: Callable[[float], str]) -> Scatter | None:
    values = [value for pair in pairs for value in (pair.predicted, pair.measured)]
    if not values:
        return None
    # A small part of a step beyond the outermost values, so that none is drawn on an edge.
    low = floor(log(min(values), base) - 0.05)
    high = max(low + 1, ceil(log(max(values), base) + 0.05))

    def share(value: float) -> float:
        return (log(value, base) - low) / (high - low)

    every = -(-(high - low) // MOST_TICKS)
    return Scatter(
        points=[Point(_x(share(p.predicted)), _y(share(p.measured)), p.kind, p.label) for p in pairs],
        ticks=[
            Tick(_x(share(base**power)), _y(share(base**power)), shown(base**power))
            for power in range(low, high + 1, every)
        ],
        kinds=sorted({pair.kind for pair in pairs}),
    )


def _x(share: float) -> str:
    return f"{LEFT + share * (RIGHT - LEFT):.2f}%"


def _y(share: float) -> str:
    return f"{BOTTOM - share * (BOTTOM - TOP):.2f}%"
