"""The queue at work: what a round costs, and what waiting jobs are told."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.jobs import loop, queue
from portal.jobs.models import Job
from portal.jobs.scheduler import Wait
from tests.portal.factories import make_attempt, make_dataset, make_job, make_model, make_node, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def busy(live_redis: object) -> None:
    """The only device is taken."""
    make_attempt(make_job(), node=make_node("n1"))


def submit(count: int) -> list[Job]:
    spec = {"model": make_model().name, "dataset": make_dataset().name}
    owner = make_user()
    return [make_job(owner, spec=spec) for _ in range(count)]


def queries() -> int:
    with CaptureQueriesContext(
        connection,
    ) as seen:
        loop.tick()
    return len(seen)


def test_a_round_asks_the_database_as_often_for_many_jobs_as_for_few() -> None:
    submit(3)
    few_new, few = queries(), queries()
    submit(40)
    many_new, many = queries(), queries()
    assert (many_new, many) == (few_new, few)
    assert many < many_new


def test_each_is_told_its_place_and_a_long_queue_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "TOLD_AT_ONCE", 2)
    jobs = submit(5)
    positions = []
    for _ in range(3):
        loop.tick()
        positions.append([Job.objects.get(pk=job.pk).queue_position for job in jobs])
    assert positions == [[1, 2, None, None, None], [1, 2, 3, 4, None], [1, 2, 3, 4, 5]]


def test_a_job_that_is_stopped_meanwhile_is_told_nothing() -> None:
    (job,) = submit(1)
    told = queue.read(timezone.now()).told
    Job.objects.filter(pk=job.pk).update(status="cancelled", waiting_for="")
    queue.tell([Wait(job.pk, 1, "Waits.")], told, timezone.now())
    job.refresh_from_db()
    assert (job.waiting_for, job.queue_position) == ("", None)


def test_an_expected_start_is_news_only_when_it_moves_by_more_than_a_minute() -> None:
    (job,) = submit(1)
    now = timezone.now()

    def tell(expected_in_s: float) -> int:
        return queue.tell([Wait(job.pk, 1, "Waits.", expected_in_s)], queue.read(now).told, now)

    assert [tell(600), tell(601), tell(590), tell(300)] == [1, 0, 0, 1]
    job.refresh_from_db()
    assert job.expected_start_at == now + timedelta(seconds=300)
