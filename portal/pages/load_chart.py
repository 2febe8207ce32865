"""A load test as shapes of an SVG, in percent of the drawing: latency over rate, a dot for each number at a time.

The rate is linear, the latency logarithmic. Pure: knows no records.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, log10

from portal.pages.axes import Tick
from portal.pages.quantities import duration
from workers.contract.load_report import STOPS, LoadReport, LoadStep, miss
from workers.contract.load_test import FIGURES

LEFT, RIGHT, TOP, BOTTOM = 17.0, 94.0, 8.0, 84.0
"""Edges of the plot, percent of the drawing; the axis labels stand outside of it."""
MOST_TICKS = 6


@dataclass(frozen=True)
class Dot:
    """One step, and where the line from the one before it begins; the first has none. `state`: met, missed or cut."""

    x: str
    y: str
    text: str
    label: str
    state: str
    from_x: str = ""
    from_y: str = ""


@dataclass(frozen=True)
class Row:
    """One step of the table."""

    step: LoadStep
    state: str
    errors: str


@dataclass(frozen=True)
class Drawing:
    """Everything the template draws. `bound`: where the target's line is. `few`: a P99 that is the slowest answer.

    `cut`: a dot is of a step that was cut short.
    """

    report: LoadReport
    figure: str
    stopped: str
    rows: list[Row]
    dots: list[Dot]
    bound: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    few: bool
    cut: bool


def drawing(report: LoadReport) -> Drawing:
    """The drawing of a load test, also of one that goes on."""
    placed = [(step, times.p99_s) for step in report.steps if (times := step.times(report.target.figure))]
    bound_s = report.target.bound_ms / 1000
    shown = [bound_s, *(p99_s for _, p99_s in placed)]
    low, high = log10(min(shown) * 0.7), log10(max(shown) * 1.4)
    right, every = _rates(max((step.requests_per_s for step, _ in placed), default=1.0))

    def x(rate: float) -> str:
        return f"{LEFT + rate / right * (RIGHT - LEFT):.2f}%"

    def y(seconds: float) -> str:
        share = (log10(max(seconds, 1e-9)) - low) / (high - low)
        return f"{BOTTOM - share * (BOTTOM - TOP):.2f}%"

    dots: list[Dot] = []
    for step, p99_s in placed:
        before = dots[-1] if dots else None
        label = f"{step.concurrency} at a time: {step.requests_per_s:.3g} requests/s, P99 {duration(p99_s)}"
        place = x(step.requests_per_s), y(p99_s)
        came = (before.x, before.y) if before else ("", "")
        dots.append(Dot(*place, str(step.concurrency), label, _state(step, report), *came))
    return Drawing(
        report=report,
        figure=FIGURES[report.target.figure],
        stopped=STOPS[report.stopped] if report.stopped else "",
        rows=[Row(step, _state(step, report), step.errors_in_words) for step in report.steps],
        dots=dots,
        bound=y(bound_s),
        x_ticks=[Tick(x(every * count), f"{every * count:.4g}") for count in range(floor(right / every + 1e-9) + 1)],
        y_ticks=[Tick(y(seconds), duration(seconds)) for seconds in _seconds(low, high)],
        few=any(step.answers < 100 for step in report.steps),
        cut=any(dot.state == "cut" for dot in dots),
    )


def _state(step: LoadStep, report: LoadReport) -> str:
    if not step.whole:
        return "cut"
    return "missed" if miss(step, report.target) else "met"


def _rates(most: float) -> tuple[float, float]:
    """(end of the axis, from one label to the next) for rates up to `most`."""
    most = max(most, 1e-6) * 1.08
    tens = 10.0 ** floor(log10(most / MOST_TICKS))
    every = next(tens * step for step in (1, 2, 5, 10) if most / (tens * step) <= MOST_TICKS)
    return most, every


def _seconds(low: float, high: float) -> Iterator[float]:
    """1, 2 and 5 of each power of ten between two logarithms; of many only the powers."""
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    for power in range(floor(low), ceil(high) + 1):
        yield from (step * 10.0**power for step in steps if low <= log10(step * 10.0**power) <= high)
