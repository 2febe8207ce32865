"""An attempt on several nodes: all are claimed at once or none, each has its order and lease, and it has one end."""

import threading
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import redis
from django.db import connection
from django.utils import timezone

from portal.fleet.models import Node
from portal.jobs import leases, loop, services
from portal.jobs.leases import lease_s
from portal.jobs.members import End, verdict
from portal.jobs.models import Allocation, Attempt, Job, Member
from portal.jobs.reconcile import Reconciler
from portal.jobs.scheduler import Placement
from portal.telemetry.record import record
from portal.telemetry.selectors import snapshot
from tests.portal.factories import make_job, make_node
from tests.portal.test_reconcile import sent
from workers.contract.events import EVENT, Envelope, Heartbeat, RunningAttempt
from workers.contract.names import LEASES, REVOKE_TASK, node_queue, token_of
from workers.contract.order import Order
from workers.contract.reasons import Reason

pytestmark = pytest.mark.django_db(transaction=True)

RESOURCES: dict[str, Any] = {"nodes": 2, "devices": 2}


def placement(job: Job, *nodes: Node) -> Placement:
    """All devices of the nodes."""
    parts = tuple((node.pk, tuple(node.accelerators.values_list("pk", flat=True))) for node in nodes)
    return Placement(job.pk, *parts[0], parts)


@pytest.fixture
def nodes(live_redis: "redis.Redis") -> list[Node]:
    return [
        make_node(
            name,
            devices=2,
            kind="cuda",
            address=address,
            interfaces=[
                {"name": "lo", "address": "127.0.0.1", "bits_per_s": None},
                {"name": "eth0", "address": address, "bits_per_s": 10**9},
                {"name": "ib0", "address": f"192.168.0.{address[-1]}", "bits_per_s": 2 * 10**11},
            ],
        )
        for name, address in (("n1", "10.0.0.1"), ("n2", "10.0.0.2"))
    ]


@pytest.fixture
def attempt(nodes: list[Node]) -> Attempt:
    """Running on n1, which leads, and n2."""
    job = make_job(spec={"resources": RESOURCES, "retry": {"backoff_s": 0}})
    assert services.allocate(placement(job, *nodes))
    assert services.mark_started(job.pk, 1)
    return Attempt.objects.select_related("job", "node").get()


def say(attempt: Attempt, rank: int, *events: dict[str, Any], first: int = 1) -> None:
    token = token_of(attempt.token, rank)
    record(
        [
            Envelope(job=attempt.job_id, attempt=attempt.number, token=token, seq=seq, at=1.0, event=event)
            for seq, event in enumerate(map(EVENT.validate_python, events), first)
        ]
    )


def finished(reason: str, detail: str = "") -> dict[str, Any]:
    return {"type": "finished", "reason": reason, "detail": detail}


def test_every_node_gets_an_order_of_its_own_and_one_token_is_the_fence_of_all(
    live_redis: "redis.Redis", attempt: Attempt
) -> None:
    first, second = (Order.model_validate(member.order) for member in attempt.members.all())
    assert Order.model_validate(attempt.order) == first
    assert (first.node, second.node) == ("n1", "n2")
    assert (second.token, second.result_uri) == (f"{first.token}n1", f"{first.result_uri}/node-1")
    assert first.team is not None
    assert second.team is not None
    assert (first.team.rank, second.team.rank) == (0, 1)
    assert first.team.endpoint == second.team.endpoint == f"10.0.0.1:{first.team.port}"
    assert second.team.settings["NCCL_SOCKET_IFNAME"] == "=ib0", "the fastest of the node's interfaces"
    assert live_redis.hgetall(LEASES) == {str(attempt.job_id): f"1:{first.token}"}
    assert [live_redis.llen(node_queue(name)) for name in ("n1", "n2")] == [1, 1]
    assert attempt.job.transitions.get(new="dispatched").note == "Sent to nodes n1, n2."
    shown = snapshot(attempt.job)
    assert [one["node"] for one in shown["team"]["nodes"]] == ["n1", "n2"]
    assert len(shown["devices"]) == 4


def test_nothing_is_claimed_where_one_device_is_held(live_redis: "redis.Redis", nodes: list[Node]) -> None:
    holder = make_job()
    assert services.allocate(Placement(holder.pk, nodes[1].pk, (nodes[1].accelerators.order_by("-index")[0].pk,)))
    job = make_job(spec={"resources": RESOURCES})
    assert not services.allocate(placement(job, *nodes))
    assert not Member.objects.exists()
    assert Allocation.objects.get().attempt.job == holder
    assert live_redis.llen(node_queue("n1")) == 0


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time, by its own lock")
def test_claims_that_overlap_at_the_same_time_never_get_a_part_of_their_nodes(live_redis: "redis.Redis") -> None:
    """Each wants two neighbours of a ring."""
    ring = [make_node(f"n{number}", devices=2) for number in range(4)]
    jobs = [make_job(spec={"resources": RESOURCES}) for _ in ring]
    wants = [placement(job, *pair) for job, pair in zip(jobs, pairwise([*ring, ring[0]]), strict=True)]
    start = threading.Barrier(len(wants))

    def claim(wanted: Placement) -> None:
        start.wait()
        services.allocate(wanted)
        connection.close()

    threads = [threading.Thread(target=claim, args=[wanted]) for wanted in wants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    held = {attempt.pk: attempt.allocations.count() for attempt in Attempt.objects.all()}
    assert held
    assert set(held.values()) == {4}
    devices = list(Allocation.objects.values_list("accelerator", flat=True))
    assert len(devices) == len(set(devices))
    assert Member.objects.count() == 2 * len(held)


def test_the_scheduler_starts_it_on_both_nodes_or_says_what_it_waits_for(nodes: list[Node]) -> None:
    holder = make_job(spec={"resources": {"node": "n2"}})
    assert loop.tick() == 1
    job = make_job(spec={"resources": RESOURCES})
    assert loop.tick() == 0
    job.refresh_from_db()
    assert "2 devices on each of 2 nodes (1 has them free)" in job.waiting_for
    services.finish(holder.pk, 1, Reason.COMPLETED)
    assert loop.tick() == 1
    assert Allocation.objects.filter(released_at=None, attempt__job=job).count() == 4


def test_a_bad_end_of_one_node_waits_for_the_others_and_the_cause_is_told(attempt: Attempt) -> None:
    say(attempt, 0, finished("peer_lost", "Connection closed by peer."))
    attempt.refresh_from_db()
    assert attempt.finished_at is None
    assert Allocation.objects.filter(released_at=None).count() == 4
    say(attempt, 1, {"type": "log", "text": "so long"}, finished("killed", "Ended by SIGKILL."))
    attempt.refresh_from_db()
    assert (attempt.reason, attempt.detail) == ("killed", "Node n2: Ended by SIGKILL.")
    assert not Allocation.objects.filter(released_at=None).exists()
    assert attempt.members.get(rank=1).output == ["so long"]


def test_a_node_that_goes_on_is_dismissed_a_lease_after_the_first_bad_end(
    live_redis: "redis.Redis", attempt: Attempt
) -> None:
    say(attempt, 1, finished("crashed", "Exit status 3."))
    loop.sweep(timezone.now() + timedelta(seconds=lease_s() - 1))
    assert not Attempt.objects.get().finished_at
    sent(live_redis)
    loop.sweep(timezone.now() + timedelta(seconds=lease_s() + 1))
    assert Attempt.objects.get().detail == "Node n2: Exit status 3."
    assert sent(live_redis) == [(REVOKE_TASK, [attempt.job_id, 1, attempt.token])]
    assert live_redis.hgetall(LEASES) == {}


def test_the_first_nodes_good_end_is_the_attempts(attempt: Attempt) -> None:
    say(attempt, 1, finished("completed"))
    assert not Attempt.objects.get().finished_at
    say(attempt, 0, {"type": "started", "pid": 1}, finished("completed"))
    assert Attempt.objects.get().reason == "completed"
    assert Job.objects.get().status == "succeeded"


def test_each_node_holds_a_lease_and_one_that_lapses_ends_the_attempt_on_all(
    live_redis: "redis.Redis", attempt: Attempt
) -> None:
    reconciler, now = Reconciler(lambda: 0.0), timezone.now()
    for rank, name in enumerate(("n1", "n2")):
        token = token_of(attempt.token, rank)
        running = (RunningAttempt(job=attempt.job_id, attempt=1, token=token),)
        reconciler.heard({name: Heartbeat(node=name, at=0, running=running)}, now=now + timedelta(seconds=rank * 10))
    assert leases.expire(now + timedelta(seconds=lease_s() - 1)) == 0
    assert leases.expire(now + timedelta(seconds=lease_s() + 1)) == 1
    attempt.refresh_from_db()
    assert (attempt.reason, attempt.detail.split(" was")[0]) == ("node_lost", "Node n1")
    assert not Allocation.objects.filter(released_at=None).exists()
    assert live_redis.hgetall(LEASES) == {}
    assert Job.objects.get().status == "queued"


def test_a_checkpoint_is_whole_once_every_node_has_stored_its_part(attempt: Attempt) -> None:
    def stored(rank: int, step: int, first: int) -> None:
        say(
            attempt,
            rank,
            {"type": "checkpoint", "step": step, "uri": f"store://{rank}/{step}", "bytes": 1},
            first=first,
        )
        attempt.refresh_from_db()

    stored(0, 10, 1)
    assert attempt.checkpoint is None
    stored(1, 10, 1)
    assert attempt.checkpoint is not None
    stored(0, 20, 2)
    assert attempt.checkpoint["step"] == 10, "of step 20 one part is missing"
    say(attempt, 1, finished("killed"), first=2)
    say(attempt, 0, finished("peer_lost"), first=3)
    services.finish(attempt.job_id, 1, Reason.NODE_LOST)
    stored(1, 20, 3)
    assert attempt.checkpoint["step"] == 20, "a late word counts as well"
    assert attempt.checkpoint["uri"] == "store://0/20"
    assert [part["uri"] for part in attempt.checkpoint["parts"]] == ["store://1/20"]


def test_a_stop_reaches_every_node(live_redis: "redis.Redis", attempt: Attempt) -> None:
    before = [live_redis.llen(node_queue(name)) for name in ("n1", "n2")]
    services.cancel(attempt.job, None)
    assert [live_redis.llen(node_queue(name)) for name in ("n1", "n2")] == [count + 1 for count in before]


def test_the_verdict_is_the_cause_and_not_its_echo() -> None:
    echo, cause, well = End(0, Reason.PEER_LOST, ""), End(1, Reason.KILLED, ""), End(2, Reason.COMPLETED, "")
    assert verdict([echo, cause]) == cause
    assert verdict([well, echo]) == echo
    assert verdict([cause, End(0, Reason.COMPLETED, "")]).reason is Reason.COMPLETED, "its result is stored"
