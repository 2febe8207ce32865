"""/calibration/: what the planner said against what runs took, empty, with few runs, and with many."""

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from portal.jobs.models import Measurement
from portal.pages.calibration_chart import BOTTOM, LEFT, RIGHT, TOP, Pair, of_bytes, of_seconds
from portal.pages.templatetags.calibration import percent, short_seconds, signed_percent
from tests.portal.factories import make_attempt, make_job, make_model, make_node, make_user

pytestmark = pytest.mark.django_db

GIB = 2**30


@pytest.fixture
def browser() -> Client:
    client = Client()
    client.force_login(make_user("ada"))
    return client


def measure(**columns: Any) -> Measurement:
    """A run that took a tenth more than was said."""
    model = make_model()
    attempt = make_attempt(make_job(spec={"model": model.name}), node=make_node(), status="succeeded")
    defaults: dict[str, Any] = {
        "device": "a100-80",
        "method": "lora/bf16/zero2",
        "basis": "cuda_reserved",
        "sequence_tokens": 1536,
        "predicted_bytes": 10 * GIB,
        "measured_bytes": 11 * GIB,
        "predicted_step_s": 0.5,
        "measured_step_s": 0.4,
    }
    return Measurement.objects.create(attempt=attempt, **{**defaults, **columns})


def page(browser: Client, number: int = 1) -> str:
    answer = browser.get(reverse("calibration"), {"page": number})
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", answer.content.decode())


def test_without_runs_it_says_what_will_be_here(browser: Client) -> None:
    said = page(browser)

    assert "No run has been measured yet" in said
    assert "<svg" not in said


def test_it_asks_who_is_there() -> None:
    assert Client().get(reverse("calibration")).status_code == 302


def test_a_run_is_a_row_and_a_point_in_each_drawing(browser: Client) -> None:
    seen = measure()

    said = page(browser)

    assert f'href="{reverse("job", args=[seen.attempt.job_id])}"' in said
    assert "LoRA · bf16 · ZeRO 2 · 1,536 tokens · A100 80 GB" in said
    assert "−9.1%" in said, "it took more than was said"
    assert "+25%" in said, "its steps were faster than was said"
    assert said.count("<circle") == 2
    assert f"#{seen.attempt.job_id}: 11.0 GiB measured, 10.0 GiB predicted" in said
    assert "not before 3 runs" in said


def test_a_run_that_was_not_timed_is_in_the_memory_drawing_alone(browser: Client) -> None:
    measure(predicted_step_s=None, measured_step_s=None)

    said = page(browser)

    assert said.count("<circle") == 1
    assert "No run has been timed yet" in said


def test_three_runs_of_a_kind_give_factors(browser: Client) -> None:
    for _ in range(3):
        measure()
    measure(device="a cpu, 8 cores", method="infer/fp32")

    said = page(browser)

    assert "× 1.10" in said
    assert "× 0.80" in said
    taught = said[said.index("What the runs taught") : said.index("Every run")]
    assert taught.index("A100 80 GB") < taught.index("a cpu, 8 cores"), "the most runs first"
    assert "serving · fp32" in said
    assert "over the last 4 runs" in said


def test_many_runs_have_pages(browser: Client) -> None:
    for number in range(27):
        measure(measured_bytes=(10 + number) * GIB)

    assert page(browser).count('<td class="wrap"><a') == 25
    assert page(browser, 2).count('<td class="wrap"><a') == 2
    assert page(browser).count("<circle") == 54


# The drawing


def place(percentage: str) -> float:
    return float(percentage.rstrip("%"))


@pytest.mark.parametrize("value", [1.0, 1e-7, 3e13])
def test_what_was_predicted_exactly_is_on_the_diagonal(value: float) -> None:
    chart = of_seconds([Pair(value, value, "lora", ""), Pair(value * 3, value * 7, "lora", "")])

    assert chart is not None
    point = chart.points[0]
    across = (place(point.x) - LEFT) / (RIGHT - LEFT)
    up = (BOTTOM - place(point.y)) / (BOTTOM - TOP)
    assert across == pytest.approx(up, abs=1e-3)


def test_every_point_is_inside_and_more_is_higher() -> None:
    chart = of_bytes([Pair(2.0**power, 2.0 ** (power + 1), "full", "") for power in range(20, 40)])

    assert chart is not None
    assert all(LEFT < place(point.x) < RIGHT and TOP < place(point.y) < BOTTOM for point in chart.points)
    heights = [place(point.y) for point in chart.points]
    assert heights == sorted(heights, reverse=True)
    assert 2 <= len(chart.ticks) <= 6
    assert all(" " in tick.text for tick in chart.ticks)


def test_one_run_makes_a_drawing_and_none_makes_none() -> None:
    chart = of_bytes([Pair(GIB, GIB, "infer", "a run")])

    assert chart is not None
    assert chart.ticks[0].text == "512 MiB"
    assert of_bytes([]) is None


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (percent(0.0312), "3.1%"),
        (percent(0.4), "40%"),
        (percent(None), "—"),
        (signed_percent(-0.05), "−5.0%"),
        (signed_percent(0.0), "+0.0%"),
        (short_seconds(0.0123), "12.3 ms"),
        (short_seconds(61.0), "61 s"),
        (short_seconds(4e-6), "4 µs"),
        (short_seconds(None), "—"),
    ],
)
def test_figures_read_well(shown: str, text: str) -> None:
    assert shown == text
