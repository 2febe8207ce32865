"""Jobs that are tried again: by their policy, after their back-off, from their last checkpoint."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from portal.fleet.models import Node
from portal.jobs import loop, services
from portal.jobs.models import Allocation, Attempt, Job
from portal.jobs.scheduler import Placement
from tests.portal.factories import make_job, make_node, make_user
from workers.contract.reasons import Reason

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def node(live_redis: object) -> Node:
    return make_node("n1")


def start(job: Job, node: Node) -> Job:
    """The job's next attempt, started."""
    assert services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
    job.refresh_from_db()
    assert services.mark_started(job.pk, job.attempt_number)
    job.refresh_from_db()
    return job


def end(job: Job, reason: Reason, **more: Any) -> Job:
    assert services.finish(job.pk, job.attempt_number, reason, **more)
    job.refresh_from_db()
    return job


def test_a_lost_node_puts_the_job_back_and_says_when_and_why(node: Node) -> None:
    job = end(start(make_job(), node), Reason.NODE_LOST)
    assert (job.status, job.reason, job.finished_at, job.phase) == ("queued", "", None, "")
    assert job.not_before is not None
    assert f"Retries at {job.not_before:%H:%M:%S} UTC after: the node stopped reporting" in job.waiting_for
    last = job.transitions.last()
    assert last is not None
    assert (last.old, last.new, last.reason) == ("running", "queued", "node_lost")
    assert not Allocation.objects.filter(released_at=None).exists()


def test_until_its_back_off_is_over_it_is_not_offered_and_keeps_its_sentence(node: Node) -> None:
    job = end(start(make_job(), node), Reason.NODE_LOST)
    sentence = job.waiting_for
    assert loop.tick() == 0
    job.refresh_from_db()
    assert (job.status, job.waiting_for) == ("queued", sentence)
    assert loop.tick(timezone.now() + timedelta(seconds=6)) == 1
    job.refresh_from_db()
    assert (job.status, job.attempt_number, job.not_before, job.waiting_for) == ("dispatched", 2, None, "")


def test_the_back_off_doubles_until_no_attempt_is_left(node: Node) -> None:
    job = make_job(spec={"retry": {"max_attempts": 3, "backoff_s": 8}})
    waits = []
    for _ in range(2):
        now = timezone.now()
        job = end(start(job, node), Reason.WORKER_STOPPED, now=now)
        assert job.not_before is not None
        waits.append((job.not_before - now).total_seconds())
    assert waits == [8, 16]
    job = end(start(job, node), Reason.WORKER_STOPPED)
    assert (job.status, job.reason) == ("failed", "worker_stopped")
    assert [attempt.reason for attempt in job.attempts.all()] == ["worker_stopped"] * 3


def test_a_preempted_job_waits_at_once_and_loses_no_attempt(node: Node) -> None:
    job = make_job(spec={"retry": {"max_attempts": 2}})
    for _ in range(3):
        job = end(start(job, node), Reason.PREEMPTED)
        assert (job.status, job.not_before) == ("queued", None)
        assert "higher priority" in job.waiting_for
    job = end(start(job, node), Reason.NODE_LOST)
    assert job.status == "queued"
    job = end(start(job, node), Reason.NODE_LOST)
    assert job.status == "failed"


@pytest.mark.parametrize(
    ("reason", "policy", "status"),
    [
        (Reason.KILLED, {}, "failed"),
        (Reason.KILLED, {"after_kill": True}, "queued"),
        (Reason.CRASHED, {}, "failed"),
        (Reason.CRASHED, {"after_crash": True}, "queued"),
        (Reason.OUT_OF_MEMORY, {"after_kill": True, "after_crash": True}, "failed"),
        (Reason.NEVER_STARTED, {}, "queued"),
        (Reason.NEVER_STARTED, {"max_attempts": 1}, "failed"),
    ],
)
def test_the_policy_says_which_ends_are_tried_again(
    node: Node, reason: Reason, policy: dict[str, Any], status: str
) -> None:
    assert end(start(make_job(spec={"retry": policy}), node), reason).status == status


def test_a_user_who_stops_it_ends_it(node: Node) -> None:
    job = start(make_job(), node)
    services.cancel(job, None)
    assert end(job, Reason.NODE_LOST).status == "cancelled"
    waits = end(start(make_job(), node), Reason.NODE_LOST)
    assert services.cancel(waits, make_user()).status == "cancelled"
    assert loop.tick(timezone.now() + timedelta(hours=1)) == 0


def test_a_second_end_of_the_same_attempt_changes_nothing(node: Node) -> None:
    job = end(start(make_job(), node), Reason.NODE_LOST)
    before = job.transitions.count()
    assert not services.finish(job.pk, 1, Reason.COMPLETED)
    assert not services.finish(job.pk, 1, Reason.NODE_LOST)
    job.refresh_from_db()
    assert (job.status, job.transitions.count()) == ("queued", before)


def test_the_next_attempt_goes_on_from_the_furthest_checkpoint(node: Node) -> None:
    job = start(make_job(), node)
    first = Attempt.objects.get()
    assert first.order["resume"] is None
    for step in (20, 40, 30):
        services.checkpoint_stored(first, step=step, uri=f"store://jobs/1/step-{step}", sha256=None)
    job = start(end(job, Reason.NODE_LOST), node)
    second = job.attempts.get(number=2)
    assert second.order["resume"] == {"uri": "store://jobs/1/step-40", "step": 40, "sha256": None, "parts": []}
    assert second.order["earlier"] == [first.token]
    services.checkpoint_stored(second, step=60, uri="store://jobs/2/step-60", sha256="a" * 64)
    services.checkpoint_stored(first, step=50, uri="store://jobs/1/step-50", sha256=None)
    job = start(end(job, Reason.PREEMPTED), node)
    assert job.attempts.get(number=3).resumed_from() == 60


def test_what_the_node_said_of_where_it_went_on_is_what_is_shown(node: Node) -> None:
    job = start(make_job(), node)
    services.checkpoint_stored(Attempt.objects.get(), step=20, uri="store://jobs/1/step-20", sha256=None)
    for number, (said, shown) in enumerate([(30, 30), (0, None)], 2):
        end(job, Reason.NODE_LOST)
        assert services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
        assert services.mark_started(job.pk, number, said)
        job.refresh_from_db()
        assert job.attempts.get(number=number).resumed_from() == shown


def test_a_job_is_asked_once_to_make_room(node: Node, live_redis: Any) -> None:
    job = start(make_job(spec={"preemptible": True}), node)
    live_redis.flushdb()
    assert services.preempt(job.pk, "Makes room for job #9.")
    assert not services.preempt(job.pk, "Makes room for job #9.")
    assert live_redis.llen("node.n1") == 1
    job.refresh_from_db()
    assert job.status == "running"
    assert not services.preempt(end(job, Reason.PREEMPTED).pk, "again")
