"""What waiting jobs are expected to take: when those behind others start, and who may go before one that waits."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from portal.jobs import loop, queue
from portal.jobs.models import Attempt, Job
from portal.jobs.scheduler import Policy
from tests.portal.factories import make_attempt, make_dataset, make_job, make_model, make_node
from tests.portal.test_sharing import CONFIG

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_redis")]


@pytest.fixture(autouse=True)
def at_leisure(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are planned in the first round, however slow the machine."""
    monkeypatch.setattr(queue, "FORECAST_S", 60)


@pytest.fixture
def named() -> dict[str, Any]:
    return {"model": make_model("small", config=CONFIG).name, "dataset": make_dataset().name}


def running(node: Any, eta_s: float | None, devices: int) -> Job:
    """A job that holds so many devices of the node."""
    attempt = make_attempt(make_job(), node=node)
    for allocation in list(attempt.allocations.order_by("accelerator__index"))[devices:]:
        allocation.delete()
    Job.objects.filter(pk=attempt.job_id).update(eta_s=eta_s)
    return attempt.job


def test_each_job_in_a_queue_is_told_when_it_is_expected_to_start(named: dict[str, Any]) -> None:
    running(make_node("n1"), eta_s=600, devices=1)
    jobs = [make_job(spec={**named, "max_steps": 100}) for _ in range(3)]
    now = timezone.now()
    loop.tick(now)
    starts = [Job.objects.get(pk=job.pk).expected_start_at for job in jobs]
    assert starts[0] == pytest.approx(now + timedelta(seconds=600), abs=timedelta(seconds=5))
    assert starts[1] is not None
    assert starts[2] is not None
    first, second = starts[1] - starts[0], starts[2] - starts[1]
    assert first == pytest.approx(second, abs=timedelta(seconds=1)), "they are alike"
    assert first > timedelta(seconds=60)


def test_a_small_job_goes_before_one_that_waits_for_more_if_it_is_over_in_time(named: dict[str, Any]) -> None:
    node = make_node("n1", devices=2)
    running(node, eta_s=7200, devices=1)
    wide = make_job(kind="preflight", spec={"resources": {"node": "n1", "devices": 2}, "priority": 50, "model": None})
    long = make_job(spec={**named, "max_steps": 10_000_000})
    brief = make_job(spec={**named, "max_steps": 10})
    unknown = make_job(spec={"max_steps": 10})
    loop.tick()
    assert Attempt.objects.filter(job__in=[wide, long, unknown]).count() == 0
    assert Attempt.objects.get(job=brief).node == node
    assert Job.objects.get(pk=wide.pk).queue_position == 1


def test_a_long_queue_is_foreseen_in_turns(named: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make_node("n1")
    clock = iter(range(10**6))
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(queue, "FORECAST_S", 1.5)
    for steps in (10, 20, 30, 10):
        make_job(spec={**named, "max_steps": steps})
    rounds = [[job.duration_s is not None for job in queue.read(timezone.now())] for _ in range(3)]
    assert rounds[0] == [True, False, False, True], "those that are alike have theirs at once"
    assert rounds[2] == [True] * 4


def test_jobs_that_may_share_a_device_are_planned_before_they_are_placed(
    named: dict[str, Any], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.LIFTOFF_SCHEDULING = Policy(packs=frozenset({"launch"}))
    monkeypatch.setattr(queue, "FORECAST_S", -1)
    make_node("n1")
    for tokens in (256, 512, 1024):
        make_job(kind="launch", spec={"model": named["model"], "context_length": tokens, "max_tokens": 8})
    assert all(job.planned_bytes for job in queue.read(timezone.now()))
