"""The page that holds the planner to its word: predicted against measured, and the factors that came of it.

Writes nothing. Knows nothing of how factors are fitted.
"""

from collections.abc import Callable
from statistics import median

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from portal.accounts.requests import SignedInRequest
from portal.jobs import measurements
from portal.jobs.models import Measurement
from portal.pages.calibration_chart import Pair, of_bytes, of_seconds
from portal.pages.calibration_words import GOALS, device_title, method_words
from portal.pages.quantities import duration
from portal.pages.templatetags.liftoff import gib
from portal.planner.calibration import FEWEST

PAGE_SIZE = 25


@require_safe
@login_required
def calibration(request: SignedInRequest) -> HttpResponse:
    """Every run's bytes and seconds beside what was said of them; the latest ones as drawings."""
    rows = Measurement.objects.select_related("attempt__job").order_by("-at", "-pk")
    latest = list(rows[: measurements.REMEMBERED])
    lessons = measurements.lessons()
    context = {
        "page": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
        "bytes_chart": of_bytes(_pair(row, row.predicted_bytes, row.measured_bytes, gib) for row in latest),
        "seconds_chart": of_seconds(
            _pair(row, row.predicted_step_s, row.measured_step_s, duration)
            for row in latest
            if row.predicted_step_s and row.measured_step_s
        ),
        "lessons": [
            {"lesson": lesson, "device": device_title(lesson.device), "method": method_words(lesson.method)}
            for lesson in lessons
        ],
        "runs": sum(lesson.runs for lesson in lessons),
        "before": median(abs(row.bytes_error()) for row in latest) if latest else None,
        "resident": any(row.basis == "rss" for row in latest),
        "fewest": FEWEST,
        "goals": GOALS,
    }
    return render(request, "calibration/calibration.html", context)


def _pair(row: Measurement, predicted: float, measured: float, shown: Callable[[float], str]) -> Pair:
    return Pair(
        predicted=predicted,
        measured=measured,
        kind=row.method.split("/")[0],
        label=(
            f"#{row.attempt.job_id}: {shown(measured)} measured, {shown(predicted)} predicted "
            f"({method_words(row.method)}, {device_title(row.device)})"
        ),
    )
