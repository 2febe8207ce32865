"""What nodes say and what the database says are made one; events that were lost are asked for and arrive once."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.utils import timezone

from portal.jobs import services
from portal.jobs.leases import Hearing
from portal.jobs.models import Attempt, Job
from portal.jobs.reconcile import GRACE_S, LAG_S, RESENDS, Reconciler
from portal.jobs.scheduler import Placement
from portal.telemetry import gaps, ingest
from portal.telemetry.models import MetricPoint
from portal.telemetry.upkeep import upkeep
from tests.portal.factories import make_job, make_node
from workers.contract.events import EVENT, Envelope, Heartbeat, RunningAttempt, StreamBatch
from workers.contract.names import (
    CANCEL_TASK,
    NODE_STREAM,
    RESEND_TASK,
    REVOKE_TASK,
    START_TASK,
    job_stream,
    node_queue,
)
from workers.contract.reasons import Reason

pytestmark = pytest.mark.django_db(transaction=True)


class Controller:
    """A reconciler whose time passes as the test says, and the commands it sent."""

    def __init__(self, client: "redis.Redis") -> None:
        self.s = 0.0
        self.reconciler = Reconciler(lambda: self.s)
        self.client = client

    def hear(self, *running: RunningAttempt, for_s: float = 0, behind: tuple[int, ...] = ()) -> None:
        """The node's heartbeats, every two seconds for so long."""
        beats = {"n1": Heartbeat(node="n1", at=0, running=running)}
        until = self.s + for_s
        self.reconciler.heard(beats, behind)
        while self.s < until:
            self.s += 2
            self.reconciler.heard(beats, behind)

    def sent(self) -> list[tuple[str, list[Any]]]:
        """(task, arguments) of the commands to n1 since the last look, oldest first."""
        return sent(self.client)


def sent(client: "redis.Redis") -> list[tuple[str, list[Any]]]:
    raw: Any = client.lrange(node_queue("n1"), 0, -1)
    client.delete(node_queue("n1"))
    messages = [json.loads(one) for one in reversed(raw)]
    return [
        (message["headers"]["task"], json.loads(base64.b64decode(message["body"]))[0])
        for message in messages
        if message["headers"]["task"] != START_TASK
    ]


@pytest.fixture
def controller(live_redis: "redis.Redis") -> Controller:
    return Controller(live_redis)


@pytest.fixture
def attempt(controller: Controller) -> Attempt:
    """A running attempt on node n1 that its node has named."""
    node, job = make_node("n1"), make_job()
    assert services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
    assert services.mark_started(job.pk, 1)
    found = Attempt.objects.select_related("job", "node").get()
    controller.hear(named(found))
    controller.sent()
    return found


def named(attempt: Attempt, **more: Any) -> RunningAttempt:
    return RunningAttempt(job=attempt.job_id, attempt=attempt.number, token=attempt.token, **more)


def envelopes(attempt: Attempt, first: int, events: list[dict[str, Any]]) -> list[Envelope]:
    return [
        Envelope(job=attempt.job_id, attempt=attempt.number, token=attempt.token, seq=seq, at=1.0, event=event)
        for seq, event in enumerate(map(EVENT.validate_python, events), first)
    ]


def losses(count: int) -> list[dict[str, Any]]:
    return [{"type": "metric", "step": n, "values": {"loss": 1 / n}} for n in range(1, count + 1)]


def whole_run(attempt: Attempt, steps: int, reason: str = "completed") -> list[Envelope]:
    """Started, a loss a step, finished."""
    end = {"type": "finished", "reason": reason}
    return envelopes(attempt, 1, [{"type": "started", "pid": 1}, *losses(steps), end])


def ship(client: "redis.Redis", batch: list[Envelope]) -> None:
    client.xadd(job_stream(batch[0].job), {"batch": StreamBatch(envelopes=batch).model_dump_json()})


def drain() -> None:
    reader = ingest.Ingest()
    reader.once()
    while reader.once():
        pass


def test_what_both_agree_on_is_left_alone(controller: Controller, attempt: Attempt) -> None:
    controller.hear(named(attempt), for_s=600)
    assert controller.sent() == []
    attempt.refresh_from_db()
    assert attempt.lease_until is not None
    assert not attempt.node.events.exists()


def test_a_run_nobody_holds_is_ended_and_told_of_once(controller: Controller, attempt: Attempt) -> None:
    stray = RunningAttempt(job=attempt.job_id, attempt=1, token="another")
    controller.hear(named(attempt), stray)
    assert controller.sent() == []
    controller.hear(named(attempt), stray, for_s=GRACE_S + 6)
    commands = controller.sent()
    assert commands
    assert all(command == (REVOKE_TASK, [attempt.job_id, 1, "another"]) for command in commands)
    assert "Told to end job" in attempt.node.events.get().text
    attempt.refresh_from_db()
    assert attempt.finished_at is None


def test_a_node_that_comes_back_with_a_lost_run_is_told_at_once(controller: Controller, attempt: Attempt) -> None:
    services.finish(attempt.job_id, 1, Reason.NODE_LOST)
    controller.hear(named(attempt))
    assert controller.sent() == [(REVOKE_TASK, [attempt.job_id, 1, attempt.token])]
    job = Job.objects.get()
    assert job.status == "queued"
    last = job.transitions.last()
    assert last is not None
    assert "Told node n1 to end attempt 1" in last.note


def test_a_run_that_has_just_ended_is_no_stray(controller: Controller, attempt: Attempt) -> None:
    services.finish(attempt.job_id, 1, Reason.COMPLETED)
    controller.hear(named(attempt), for_s=2)
    controller.hear(for_s=60)
    assert controller.sent() == []


def test_an_attempt_its_node_does_not_name_is_asked_for_and_then_given_up(
    controller: Controller, attempt: Attempt
) -> None:
    controller.hear(for_s=GRACE_S + 1)
    assert controller.sent() == [(RESEND_TASK, [attempt.job_id, 1, attempt.token, 0])]
    assert Job.objects.get().status == "running"
    controller.hear(for_s=4 * RESENDS + 4)
    assert len(controller.sent()) == RESENDS - 1
    job = Job.objects.get()
    assert job.status == "queued"
    notes = [change.note for change in job.transitions.all()]
    assert any("doesn't name it" in note for note in notes)
    assert any("doesn't run it" in note for note in notes)
    assert len(attempt.node.events.all()) == 2


def test_while_its_events_still_come_it_is_not_given_up(controller: Controller, attempt: Attempt) -> None:
    for seq in range(1, 30):
        Attempt.objects.update(last_seq=seq)
        controller.hear(for_s=4)
    controller.hear(for_s=120, behind=(attempt.job_id,))
    assert Job.objects.get().status == "running"


def test_an_attempt_on_its_way_is_not_missing(controller: Controller) -> None:
    node, job = make_node("n1"), make_job()
    services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
    controller.hear(for_s=60)
    assert controller.sent() == []
    job.refresh_from_db()
    assert job.status == "dispatched"


def test_a_cancelled_attempt_that_no_node_has_ends(controller: Controller) -> None:
    node, job = make_node("n1"), make_job()
    services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
    services.cancel(job, None)
    assert controller.sent() == [(CANCEL_TASK, [job.pk, 1])]
    controller.hear(for_s=GRACE_S + 4 * RESENDS + 4)
    job.refresh_from_db()
    assert (job.status, job.reason) == ("cancelled", "cancelled")


def test_a_quiet_run_whose_last_events_were_lost_is_asked_for_them(controller: Controller, attempt: Attempt) -> None:
    Attempt.objects.update(last_seq=5)
    controller.hear(named(attempt, last_seq=9), for_s=LAG_S - 2)
    assert controller.sent() == []
    controller.hear(named(attempt, last_seq=9), for_s=4)
    assert controller.sent() == [(RESEND_TASK, [attempt.job_id, 1, attempt.token, 5])]


def test_a_gap_is_seen_asked_for_and_filled_before_the_end_counts(
    controller: Controller, attempt: Attempt, live_redis: "redis.Redis"
) -> None:
    run = envelopes(
        attempt, 1, [{"type": "started", "pid": 1}, *losses(6), {"type": "finished", "reason": "completed"}]
    )
    ship(live_redis, run[:3])
    ship(live_redis, run[5:])
    drain()
    attempt.refresh_from_db()
    assert (attempt.last_seq, attempt.ahead, attempt.finished_at) == (3, [[6, 8]], None)
    assert Job.objects.get().status == "running"
    assert controller.sent() == [(RESEND_TASK, [attempt.job_id, 1, attempt.token, 3])]
    assert attempt.job.transitions.filter(note__contains="no. 4 to 5 are missing").count() == 1
    ship(live_redis, run[3:])  # as the node sends them again
    drain()
    attempt.refresh_from_db()
    assert (attempt.last_seq, attempt.ahead, attempt.gap_since, attempt.reason) == (8, [], None, "completed")
    assert Job.objects.get().status == "succeeded"
    assert sorted(MetricPoint.objects.values_list("step", flat=True)) == [1, 2, 3, 4, 5, 6]


def test_a_gap_that_is_never_filled_ends_after_a_minute_and_says_so(
    controller: Controller, attempt: Attempt, live_redis: "redis.Redis"
) -> None:
    run = envelopes(
        attempt, 1, [{"type": "started", "pid": 1}, *losses(3), {"type": "finished", "reason": "completed"}]
    )
    ship(live_redis, run[:1])
    ship(live_redis, run[2:])
    drain()
    gaps.chase()
    assert Job.objects.get().status == "running"
    gaps.chase(timezone.now() + timedelta(seconds=61))
    job = Job.objects.get()
    assert job.status == "succeeded"
    assert job.transitions.filter(note__contains="no. 2 of attempt 1 never arrived").exists()
    attempt.refresh_from_db()
    assert (attempt.last_seq, attempt.ahead, attempt.gap_since) == (5, [], None)
    assert all(task == RESEND_TASK for task, _ in controller.sent())
    ship(live_redis, run)
    drain()
    assert MetricPoint.objects.count() == 3, "what comes later still is stored"


def test_events_in_any_order_and_number_are_stored_once_and_end_once(
    attempt: Attempt, live_redis: "redis.Redis"
) -> None:
    run = whole_run(attempt, 8, "crashed")
    for n in (9, 3, 4, 0, 7, 7, 1, 8, 2, 5, 6, 0, 9):
        ship(live_redis, [run[n]])
    drain()
    assert sorted(MetricPoint.objects.values_list("step", flat=True)) == list(range(1, 9))
    job = Job.objects.get()
    assert (job.status, job.reason) == ("failed", "crashed")
    assert [change.new for change in job.transitions.all() if change.old != change.new].count("failed") == 1


def test_after_redis_lost_everything_the_events_are_asked_for_and_a_lost_end_arrives(
    controller: Controller, attempt: Attempt, live_redis: "redis.Redis"
) -> None:
    run = envelopes(
        attempt, 1, [{"type": "started", "pid": 1}, *losses(3), {"type": "finished", "reason": "completed"}]
    )
    ship(live_redis, run[:3])
    drain()
    upkeep(1, Hearing())
    controller.sent()
    ship(live_redis, run[3:])
    live_redis.flushdb()
    upkeep(1, Hearing())
    assert controller.sent() == [(RESEND_TASK, [attempt.job_id, 1, attempt.token, 3])]
    ship(live_redis, run[3:])
    drain()
    assert Job.objects.get().status == "succeeded"
    assert MetricPoint.objects.count() == 3
    upkeep(1, Hearing())
    assert controller.sent() == []


def test_heartbeats_over_redis_renew_and_a_returning_node_is_told_of(
    attempt: Attempt, live_redis: "redis.Redis"
) -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    attempt.node.last_seen_at = long_ago
    attempt.node.save()
    Attempt.objects.update(lease_until=long_ago)
    live_redis.delete(NODE_STREAM)
    beat = Heartbeat(node="n1", at=0, running=(named(attempt),))
    live_redis.xadd(NODE_STREAM, {"beat": beat.model_dump_json()})
    drain()
    attempt.refresh_from_db()
    assert attempt.lease_until is not None
    assert attempt.lease_until > timezone.now()
    assert attempt.node.events.get().text.startswith("Reports again, after ")
