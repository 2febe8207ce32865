"""Leases: renewed by heartbeats, lapsing only before a controller that hears, and found by nodes in Redis."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from portal.fleet.models import Node
from portal.jobs import fences, leases, loop, services
from portal.jobs.leases import BREAK_S, Hearing, lease_s
from portal.jobs.models import Allocation, Attempt, Job
from portal.jobs.scheduler import Placement
from portal.telemetry.record import record
from tests.portal.factories import make_job, make_node
from workers.contract.events import EVENT, Envelope, Heartbeat, RunningAttempt
from workers.contract.names import EPOCH_FIELD, LEASES
from workers.contract.reasons import Reason

pytestmark = pytest.mark.django_db(transaction=True)


class Time:
    """A monotonic and a wall clock that a test moves together, or apart."""

    def __init__(self) -> None:
        self.s = 0.0
        self.wall = datetime(2026, 1, 1, tzinfo=UTC)

    def pass_(self, seconds: float) -> None:
        self.s += seconds
        self.wall += timedelta(seconds=seconds)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def hearing(time: Time) -> Hearing:
    return Hearing(lambda: time.s, lambda: time.wall)


def hear(hearing: Hearing, time: Time, seconds: float) -> None:
    for _ in range(int(seconds)):
        hearing.heard()
        time.pass_(1)
    hearing.heard()


@pytest.fixture
def attempt(live_redis: object) -> Attempt:
    """A running attempt on node n1."""
    node, job = make_node("n1"), make_job()
    assert services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
    assert services.mark_started(job.pk, 1)
    return Attempt.objects.select_related("job", "node").get()


def beat(held: Attempt, **named: Any) -> dict[str, Heartbeat]:
    """A heartbeat of its node that names it."""
    values = {"job": held.job_id, "attempt": held.number, "token": held.token, **named}
    running = (RunningAttempt.model_validate(values),)
    return {held.node.name: Heartbeat(node=held.node.name, at=0, running=running)}


def renew(beats: dict[str, Heartbeat], now: datetime) -> None:
    leases.renew(beats, leases.held(beats), now)


def test_a_controller_hears_only_after_a_whole_lease_without_a_break(hearing: Hearing, time: Time) -> None:
    assert not hearing.whole_lease()
    hear(hearing, time, lease_s() - 1)
    assert not hearing.whole_lease()
    hear(hearing, time, 2)
    assert hearing.whole_lease()


@pytest.mark.parametrize("what", ["outage", "sleep", "clock forward", "clock back"])
def test_an_outage_a_sleep_or_a_clock_that_jumps_begins_the_lease_anew(hearing: Hearing, time: Time, what: str) -> None:
    hear(hearing, time, lease_s() + 5)
    match what:
        case "outage":
            hearing.lost()
        case "sleep":
            time.pass_(BREAK_S + 1)
        case "clock forward":
            time.wall += timedelta(hours=1)
            hearing.heard()
        case "clock back":
            time.wall -= timedelta(hours=1)
            hearing.heard()
    assert not hearing.whole_lease()
    hear(hearing, time, lease_s() - 2)
    assert not hearing.whole_lease()
    hear(hearing, time, 3)
    assert hearing.whole_lease()


def test_what_came_while_the_last_reading_was_stored_is_not_silence(hearing: Hearing, time: Time) -> None:
    hear(hearing, time, lease_s() + 1)
    began = hearing.listening()
    time.pass_(BREAK_S - 1)
    hearing.heard(began)
    assert hearing.whole_lease() == began[1]


def test_a_heartbeat_that_names_it_renews_and_silence_ends_it_at_once_with_its_devices(attempt: Attempt) -> None:
    now = timezone.now()
    for n in range(5):
        renew(beat(attempt), now + timedelta(seconds=20 * n))
        assert leases.expire(now + timedelta(seconds=20 * n + lease_s() - 1)) == 0
    assert leases.expire(now + timedelta(seconds=80 + lease_s() + 1)) == 1
    attempt.refresh_from_db()
    assert attempt.reason == "node_lost"
    assert attempt.finished_at is not None
    assert not Allocation.objects.filter(released_at=None).exists()
    assert attempt.job.transitions.filter(new="queued", reason="node_lost").exists()
    assert f"Lost job #{attempt.job_id}" in attempt.node.events.get().text


@pytest.mark.parametrize("named", [{"token": "other"}, {"attempt": 2}, {"job": 10_000}])
def test_another_attempts_name_renews_nothing(attempt: Attempt, named: dict[str, Any]) -> None:
    renew(beat(attempt, **named), timezone.now())
    attempt.refresh_from_db()
    assert attempt.lease_until is None


def test_another_nodes_word_renews_nothing(attempt: Attempt) -> None:
    make_node("n2")
    running = (RunningAttempt(job=attempt.job_id, attempt=1, token=attempt.token),)
    renew({"n2": Heartbeat(node="n2", at=0, running=running)}, timezone.now())
    attempt.refresh_from_db()
    assert attempt.lease_until is None


def test_a_clock_that_went_back_keeps_no_lost_attempt_alive(attempt: Attempt) -> None:
    now = timezone.now()
    renew(beat(attempt), now + timedelta(hours=5))
    assert leases.expire(now) == 0
    assert leases.expire(now + timedelta(seconds=lease_s() + 1)) == 1


def test_a_node_that_vanishes_before_its_first_word_loses_the_attempt_too(attempt: Attempt) -> None:
    Node.objects.update(last_seen_at=timezone.now() - timedelta(seconds=lease_s() + 1))
    assert leases.expire() == 0
    assert leases.expire(timezone.now() + timedelta(seconds=lease_s() + 1)) == 1


def test_a_download_that_takes_long_is_not_given_up_while_the_node_names_it(live_redis: Any) -> None:
    node, job = make_node("n1"), make_job()
    services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
    attempt = Attempt.objects.get()
    renew(beat(attempt), timezone.now())
    live_redis.flushdb()
    Attempt.objects.update(dispatched_at=timezone.now() - timedelta(hours=1))
    loop.sweep()
    job.refresh_from_db()
    assert (job.status, live_redis.llen("node.n1")) == ("dispatched", 0)


def test_a_controller_that_just_came_gives_nothing_up(live_redis: Any) -> None:
    node, job = make_node("n1"), make_job()
    services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
    Attempt.objects.update(dispatched_at=timezone.now() - timedelta(hours=1))
    loop.sweep(give_up=False)
    job.refresh_from_db()
    assert job.status == "dispatched"


def test_the_lease_is_in_redis_before_the_order_and_gone_with_the_attempt(attempt: Attempt, live_redis: Any) -> None:
    assert live_redis.hgetall(LEASES) == {str(attempt.job_id): f"1:{attempt.token}"}
    assert live_redis.llen("node.n1") == 1
    services.finish(attempt.job_id, 1, Reason.NODE_LOST)
    assert live_redis.hgetall(LEASES) == {}


def test_an_old_attempts_end_leaves_the_new_ones_lease(attempt: Attempt, live_redis: Any) -> None:
    live_redis.hset(LEASES, str(attempt.job_id), "2:newer")
    fences.withdraw(attempt.job_id, 1, attempt.token)
    assert live_redis.hget(LEASES, str(attempt.job_id)) == "2:newer"


def test_the_hash_is_made_whole_and_says_when_redis_had_lost_it(attempt: Attempt, live_redis: Any) -> None:
    mine = {str(attempt.job_id): f"1:{attempt.token}"}
    assert fences.publish(1)
    assert live_redis.hgetall(LEASES) == {**mine, EPOCH_FIELD: "1"}
    live_redis.hset(LEASES, mapping={"77": "1:gone", str(attempt.job_id): "9:wrong"})
    assert not fences.publish(1)
    assert live_redis.hgetall(LEASES) == {**mine, EPOCH_FIELD: "1"}
    live_redis.flushdb()
    assert fences.publish(1)
    assert live_redis.hgetall(LEASES) == {**mine, EPOCH_FIELD: "1"}
    assert not fences.publish(2)
    assert live_redis.hget(LEASES, EPOCH_FIELD) == "2"


def test_what_changes_while_the_hash_is_compared_is_not_undone(
    attempt: Attempt, live_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fences.publish(1)
    live_redis.hset(LEASES, "77", "1:gone")

    class Meanwhile:
        """Between the reading and the change, two jobs get the leases of later attempts."""

        def hgetall(self, name: str) -> Any:
            found = live_redis.hgetall(name)
            live_redis.hset(LEASES, mapping={"77": "2:later", "78": "1:new"})
            return found

        def eval(self, *arguments: Any) -> Any:
            return live_redis.eval(*arguments)

    monkeypatch.setattr(fences, "client", Meanwhile)
    for epoch in (1, 2):
        fences.publish(epoch)
        mine = {str(attempt.job_id): f"1:{attempt.token}", EPOCH_FIELD: str(epoch)}
        assert live_redis.hgetall(LEASES) == {**mine, "77": "2:later", "78": "1:new"}
        live_redis.hset(LEASES, "77", "1:gone")
        live_redis.hdel(LEASES, "78")


def say(attempt: Attempt, first: int, *events: dict[str, Any]) -> None:
    record(
        [
            Envelope(job=attempt.job_id, attempt=attempt.number, token=attempt.token, seq=seq, at=1.0, event=event)
            for seq, event in enumerate(map(EVENT.validate_python, events), first)
        ]
    )


def test_what_a_lost_attempt_says_late_is_stored_and_changes_nothing(attempt: Attempt) -> None:
    say(attempt, 1, {"type": "started", "pid": 1}, {"type": "metric", "step": 1, "values": {"loss": 2.0}})
    services.finish(attempt.job_id, 1, Reason.NODE_LOST)
    before = Job.objects.values().get()
    adapter = {"type": "artifact", "name": "a", "kind": "adapter", "uri": "store://jobs/1", "bytes": 5}
    late = {"type": "metric", "step": 2, "values": {"loss": 1.0}}
    checkpoint = {"type": "checkpoint", "step": 2, "uri": "store://jobs/1/c", "bytes": 5}
    say(
        attempt,
        3,
        {"type": "phase", "name": "x"},
        late,
        adapter,
        checkpoint,
        {"type": "finished", "reason": "completed"},
    )
    assert Job.objects.values().get() == before
    assert [point.step for point in attempt.metric_points.order_by("seq")] == [1, 2]
    assert attempt.events.filter(type="finished").exists()
    attempt.refresh_from_db()
    assert (attempt.reason, attempt.last_seq) == ("node_lost", 7)
    assert attempt.checkpoint is not None, "a run goes the same way from any of its checkpoints"
