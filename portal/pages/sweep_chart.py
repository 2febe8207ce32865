"""An all-reduce sweep as shapes of an SVG, in percent of the drawing, and as words. Pure: knows no records.

Bus bandwidth over size of message, both logarithmic: a line for each count of processes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, log2, log10
from typing import Any

from portal.pages.axes import Tick
from portal.pages.quantities import duration, size
from portal.planner.rules import Rules
from workers.contract.sweep import Sum, Sweep

LEFT, RIGHT, TOP, BOTTOM = 20.0, 92.0, 8.0, 84.0
"""Edges of the plot, percent of the drawing; the axis labels stand outside of it."""
EVERY = 4
"""Doublings of size between two labels."""
COLOURS = 6


@dataclass(frozen=True)
class Dot:
    """One measurement, and where the line from the one before it begins; the first has none."""

    x: str
    y: str
    label: str
    from_x: str = ""
    from_y: str = ""


@dataclass(frozen=True)
class Line:
    """The measurements between so many processes. `colour` counts from 0."""

    ranks: int
    colour: int
    dots: list[Dot]


@dataclass(frozen=True)
class Scaling:
    """One doubling beside the guide's. `state`: ok up to the guide's most, else warn."""

    before: int
    after: int
    took: str
    overhead: float
    state: str


@dataclass(frozen=True)
class Drawing:
    """Everything the template draws."""

    sweep: Sweep
    report: Any
    """Who measured it and when, where the page doesn't say so itself."""
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    scaling: list[Scaling]
    least: float
    most: float
    """The guide's overhead per doubling, shares."""
    fastest: str


def drawing(sweep: Sweep, rules: Rules, report: Any = None) -> Drawing:
    """The drawing of a sweep, beside the rule for collectives."""
    sizes = [log2(one.bytes) for one in sweep.sums]
    rates = [log10(one.bus_bytes_per_s) for one in sweep.sums]
    left, right = floor(min(sizes)), max(ceil(max(sizes)), floor(min(sizes)) + 1)
    low, high = floor(min(rates)), max(ceil(max(rates)), floor(min(rates)) + 1)

    def x(power: float) -> str:
        return f"{LEFT + (power - left) / (right - left) * (RIGHT - LEFT):.2f}%"

    def y(power: float) -> str:
        return f"{BOTTOM - (power - low) / (high - low) * (BOTTOM - TOP):.2f}%"

    def line(colour: int, ranks: int) -> Line:
        dots: list[Dot] = []
        for one in (one for one in sweep.sums if one.ranks == ranks):
            before = dots[-1] if dots else None
            label = f"{size(one.bytes)} between {ranks}: {rate(one.bus_bytes_per_s)}, {duration(one.seconds)}"
            place = x(log2(one.bytes)), y(log10(one.bus_bytes_per_s))
            dots.append(Dot(*place, label, before.x if before else "", before.y if before else ""))
        return Line(ranks, colour % COLOURS, dots)

    return Drawing(
        sweep=sweep,
        report=report,
        lines=[line(colour, ranks) for colour, ranks in enumerate(_counts(sweep.sums))],
        x_ticks=[Tick(x(power), size(2**power)) for power in range(left, right + 1, EVERY)],
        y_ticks=[Tick(y(power), rate(10.0**power)) for power in range(low, high + 1)],
        scaling=[
            Scaling(
                before=one.before.ranks,
                after=one.after.ranks,
                took=f"{duration(one.before.seconds)} → {duration(one.after.seconds)}",
                overhead=one.overhead,
                state="ok" if one.overhead <= rules.nccl_share_most else "warn",
            )
            for one in sweep.doublings
        ],
        least=rules.nccl_share,
        most=rules.nccl_share_most,
        fastest=f"{rate(sweep.fastest.bus_bytes_per_s)} at {size(sweep.fastest.bytes)}",
    )


def rate(bytes_per_s: float) -> str:
    """Bandwidth in decimal units, as links are sold: 1.5e9 → '1.5 GB/s'."""
    for limit, unit in ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")):
        if bytes_per_s >= limit:
            return f"{bytes_per_s / limit:.3g} {unit}"
    return f"{bytes_per_s:.3g} B/s"


def _counts(sums: Iterable[Sum]) -> list[int]:
    return sorted({one.ranks for one in sums})
