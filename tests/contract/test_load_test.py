"""A load test's spec and its report: the ramp, what is refused, and which step is the best one."""

from typing import Any

import pytest
from pydantic import ValidationError

from workers.contract.errors import from_pydantic
from workers.contract.load_report import LoadReport, LoadStep, Times, miss
from workers.contract.load_test import LoadTarget, LoadTestSpec
from workers.contract.spec import JOB_SPEC


def refused(**changes: Any) -> tuple[str, str]:
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python({"kind": "load_test", "launch": 5, **changes})
    (refusal,) = from_pydantic(caught.value)
    return refusal.field, refusal.message


@pytest.mark.parametrize(("most", "ramp"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_the_ramp_doubles_up_to_the_most(most: int, ramp: tuple[int, ...]) -> None:
    assert LoadTestSpec(launch=5, concurrency=most).ramp == ramp


def test_what_can_not_be_used_is_refused_by_name() -> None:
    assert refused(target={"bound_ms": 0}) == (
        "target.bound_ms",
        "target.bound_ms: 0 is out of range; it must be more than 0.",
    )
    assert refused(launch=None) == ("launch", "launch: null is not a whole number.")
    assert refused(launch="x")[0] == "launch"
    assert refused(resources={"devices": 1})[0] == "resources.devices"
    assert refused(dataset="tickets", prompts="Hello")[1] == (
        "prompts: dataset 'tickets' is named as well; give one of the two."
    )
    assert refused(target={"figure": "tpot"}, max_tokens=1)[0] == "max_tokens"


def step(concurrency: int, p99_s: float, **changes: Any) -> LoadStep:
    times = Times(p50_s=p99_s / 2, p95_s=p99_s, p99_s=p99_s)
    given = {"whole": True, "seconds": 2, "answers": 10, "requests_per_s": 5.0 * concurrency, "e2e": times}
    rates = {"tokens_in_per_s": 1, "tokens_out_per_s": 2}
    return LoadStep.model_validate({"concurrency": concurrency, **given, **rates, **changes})


def test_the_best_step_is_the_fastest_whole_one_that_meets_the_target() -> None:
    steps = (step(1, 0.1), step(2, 0.4), step(4, 0.6), step(8, 0.2, whole=False))
    report = LoadReport(at=0, took_s=1, asked="8 prompts", target=LoadTarget(), steps=steps)
    assert report.best == steps[1]
    assert miss(steps[2], report.target) == (
        "target_missed",
        "At 4 at a time the P99 of the end-to-end latency was 600 ms; the target is below 500 ms.",
    )
    none = report.model_copy(update={"target": LoadTarget(bound_ms=100)})
    assert none.best is None  # just the bound is not below it


def test_errors_count_before_the_target() -> None:
    failing = step(4, 0.1, errors={"full": 3, "timeout": 7}, answers=90)
    assert miss(failing, LoadTarget(most_errors_percent=10)) is None
    assert miss(failing, LoadTarget()) == (
        "errors",
        "At 4 at a time 10% of the requests failed (7 timeout, 3 full); at most 1% may.",
    )
    nothing = step(1, 0.1, answers=0, e2e=None)
    assert miss(nothing, LoadTarget(most_errors_percent=100)) is not None
