"""The card that sets load tests side by side, on the pages of a launch and of a model. Writes nothing."""

from dataclasses import dataclass
from typing import Any

from django import template

from portal.serving import selectors
from portal.serving.models import LoadTest
from workers.contract.load_report import STOPS, LoadReport, LoadStep

register = template.Library()

MOST = 20
"""The newest ones."""


@dataclass(frozen=True)
class Row:
    """One load test. `best`: the step of the highest rate that met the target; None where none did."""

    test: LoadTest
    found: LoadReport
    best: LoadStep | None
    p99_s: float | None
    ended: str


@register.inclusion_tag("serving/_load_tests.html")
def load_tests_of(*, launch: int | None = None, model: str = "", testable: bool = False) -> dict[str, Any]:
    """Those of a launch with its replicas, or of a model and what is served by its name. `testable`: the launch
    answers now."""
    tests = selectors.load_tests(launch=launch, model=model)[:MOST]
    return {"rows": [_row(test) for test in tests], "launch": launch if testable else None}


def _row(test: LoadTest) -> Row:
    found = test.found
    best = found.best
    times = best.times(found.target.figure) if best else None
    ended = STOPS[found.stopped] if found.stopped else "goes on"
    return Row(test, found, best, times.p99_s if times else None, ended)
