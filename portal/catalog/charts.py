"""The token-length histogram as shapes of an SVG, in percent of the drawing, so that it fits any width.

Pure: knows nothing of datasets or templates.
"""

from dataclasses import dataclass
from typing import Any

LEFT, RIGHT, TOP, BOTTOM = 11.0, 98.0, 11.0, 82.0
"""Edges of the plot, percent of the drawing; the axis labels stand outside of it."""
BAR_SHARE = 0.88
X_LABELS = 6


@dataclass(frozen=True)
class Bar:
    """One bar, `label` says what it counts."""

    x: str
    y: str
    width: str
    height: str
    label: str


@dataclass(frozen=True)
class Tick:
    """A label at `at` on its axis."""

    at: str
    text: str


@dataclass(frozen=True)
class Mark:
    """A vertical line at a length worth knowing, in tokens."""

    at: str
    name: str
    tokens: int


@dataclass(frozen=True)
class Histogram:
    """Everything the template draws."""

    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Mark]


def histogram(counted: dict[str, Any]) -> Histogram | None:
    """The drawing of `Dataset.token_histogram` (edges in tokens, counts in rows); None when nothing was counted."""
    edges, counts = counted.get("edges") or [], counted.get("counts") or []
    if len(edges) != len(counts) + 1 or not any(counts):
        return None
    top = _round_up(max(counts))
    first = float(edges[0])
    span = float(edges[-1]) - first

    def x(tokens: float) -> float:
        return LEFT + (tokens - first) / span * (RIGHT - LEFT)

    def y(rows: float) -> float:
        return BOTTOM - rows / top * (BOTTOM - TOP)

    bars = []
    for low, high, rows in zip(edges, edges[1:], counts, strict=False):
        width = x(high) - x(low)
        what = f"{low} to {high - 1}" if high - 1 > low else str(low)
        bars.append(
            Bar(
                x=_percent(x(low) + width * (1 - BAR_SHARE) / 2),
                y=_percent(y(rows)),
                width=_percent(width * BAR_SHARE),
                height=_percent(BOTTOM - y(rows)),
                label=f"{what} token{'' if what == '1' else 's'}: {rows} row{'' if rows == 1 else 's'}",
            )
        )
    step = -(-len(edges) // X_LABELS)
    marks = [
        Mark(_percent(min(x(counted[key] + 0.5), RIGHT)), name, counted[key])
        for key, name in (("median", "median"), ("p95", "95th percentile"))
        if isinstance(counted.get(key), int)
    ]
    return Histogram(
        bars=bars,
        x_ticks=[Tick(_percent(x(edge)), f"{edge:,}") for edge in edges[::step]],
        y_ticks=[Tick(_percent(y(rows)), f"{rows:,}") for rows in sorted({0, top // 2, top})],
        marks=marks,
    )


def _round_up(rows: int) -> int:
    """The next number of the form 2, 4, 6, 8 or 10 times a power of ten: even, so that half of it is whole."""
    power = 1
    while True:
        for factor in (2, 4, 6, 8, 10):
            if factor * power >= rows:
                return factor * power
        power *= 10


def _percent(value: float) -> str:
    return f"{value:.2f}%"
