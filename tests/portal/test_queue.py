"""The queue at work: what a round costs, and what waiting jobs are told."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.fleet.models import Node
from portal.jobs import loop, queue, services
from portal.jobs.models import Attempt, Job
from portal.jobs.scheduler import Wait
from tests.portal.factories import make_attempt, make_dataset, make_job, make_model, make_node, make_user
from workers.contract.reasons import Reason

pytestmark = pytest.mark.django_db

SOON = timedelta(minutes=1)
"""After it, those who wait are told of what has changed."""


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
    submit(1)
    queries()  # the fleet is looked at once for what jobs on it take
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
    rounds = loop.Rounds()
    for _ in range(3):
        rounds.tick()
        positions.append([Job.objects.get(pk=job.pk).queue_position for job in jobs])
    assert positions == [[1, 2, None, None, None], [1, 2, 3, 4, None], [1, 2, 3, 4, 5]]


def test_who_knows_no_place_yet_is_told_before_those_whose_place_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "TOLD_AT_ONCE", 3)
    jobs, rounds, now = submit(3), loop.Rounds(), timezone.now()
    rounds.tick(now)
    services.cancel(jobs[0], None)
    (late,) = submit(1)
    monkeypatch.setattr(queue, "TOLD_AT_ONCE", 1)
    rounds.tick(now + SOON)
    positions = Job.objects.filter(pk__in=[jobs[1].pk, jobs[2].pk, late.pk]).order_by("pk")
    assert list(positions.values_list("queue_position", flat=True)) == [2, 3, 3]
    rounds.tick(now + SOON)
    assert list(positions.values_list("queue_position", flat=True)) == [1, 3, 3]


def test_while_nothing_changes_a_round_asks_little(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, rounds, now = submit(3), loop.Rounds(), timezone.now()
    rounds.tick(now)
    with CaptureQueriesContext(connection) as quiet:
        rounds.tick(now)
    services.cancel(jobs[0], None)
    with CaptureQueriesContext(connection) as changed:
        rounds.tick(now + SOON)
    assert len(quiet) < len(changed)
    assert Job.objects.get(pk=jobs[1].pk).queue_position == 1


def test_a_device_that_comes_free_is_given_out_in_the_next_round() -> None:
    jobs, rounds, now = submit(3), loop.Rounds(), timezone.now()
    assert rounds.tick(now) == 0
    for job in jobs[:2]:
        holder = Attempt.objects.get(finished_at=None)
        services.finish(holder.job_id, holder.number, Reason.COMPLETED)
        assert rounds.tick(now) == 1
        assert Job.objects.get(pk=job.pk).status == "dispatched"
    assert Job.objects.get(pk=jobs[2].pk).queue_position == 3
    rounds.tick(now + SOON)
    assert Job.objects.get(pk=jobs[2].pk).queue_position == 1


def test_a_node_that_drains_or_comes_back_is_seen_in_the_next_round() -> None:
    (job,), rounds = submit(1), loop.Rounds()
    rounds.tick()
    free = make_node("n2", state="draining")
    assert rounds.tick() == 0
    Node.objects.filter(pk=free.pk).update(state="active")
    assert rounds.tick() == 1
    job.refresh_from_db()
    assert job.status == "dispatched"


def test_a_job_that_is_stopped_meanwhile_is_told_nothing() -> None:
    (job,) = submit(1)
    now = timezone.now()
    news = queue.news([Wait(job.pk, 1, "Waits.")], queue.told(now), now)
    Job.objects.filter(pk=job.pk).update(status="cancelled", waiting_for="")
    queue.tell(news)
    job.refresh_from_db()
    assert (job.waiting_for, job.queue_position) == ("", None)


def test_an_expected_start_is_news_only_when_it_moves_by_more_than_a_minute() -> None:
    (job,) = submit(1)
    now = timezone.now()

    def tell(expected_in_s: float) -> int:
        news = queue.news([Wait(job.pk, 1, "Waits.", expected_in_s)], queue.told(now), now)
        queue.tell(news)
        return len(news)

    assert [tell(600), tell(601), tell(590), tell(300)] == [1, 0, 0, 1]
    job.refresh_from_db()
    assert job.expected_start_at == now + timedelta(seconds=300)
