"""Clocks that jump and machines that sleep, before both sides of a lease as they are: the node's and the portal's.

A world of three machines in simulated time: a controller, and two nodes of which one holds the job at a time. Each
machine has a clock that stands still while it sleeps, and a wall clock that jumps. One thing is left out: a clock that
goes back during a sleep by just what the sleep took, which no clock of that machine would show.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from pytest_django.fixtures import Settings

from portal.fleet.models import Node
from portal.jobs import leases, services
from portal.jobs.lifecycle import Status
from portal.jobs.models import Attempt, Job
from portal.jobs.scheduler import Placement
from tests.chaos.machines import LEASE_S, Machine, WorkerNode
from tests.portal.factories import make_dataset, make_job, make_model, make_node, make_user
from workers.beats import BEAT_INTERVAL_S
from workers.contract.events import Heartbeat
from workers.contract.reasons import Reason
from workers.leases import MemoryLeaseBook

pytestmark = pytest.mark.django_db

TICK_S = 0.5
UPKEEP_S = 1.0
PLAY_S = 2 * TICK_S + leases.JUMP_S
"""What a tick, and a jump too small to be seen, may take off a lease or add to it."""

jumps = st.sampled_from([0.4, 1.9, 2.5, 7.0, 90.0, 3_600.0, 86_400.0 * 30])
directions = st.sampled_from([-1, 1])


class World(RuleBasedStateMachine):
    """`true`: seconds that have really gone by."""

    def __init__(self) -> None:
        super().__init__()
        Job.objects.all().delete()
        Node.objects.all().delete()
        self.true = 0.0
        self.disturbed_at = 0.0
        """When the controller's clock last jumped, or it or Redis were away."""
        self.controller = Machine()
        self.book = MemoryLeaseBook()
        self.book.whole = True
        self.stream: list[tuple[WorkerNode, Heartbeat]] = []
        _clock.now = lambda: datetime.fromtimestamp(self.controller.wall, UTC)
        self.hearing = leases.Hearing(lambda: self.controller.monotonic, timezone.now)
        self.nodes = [WorkerNode(name="n1"), WorkerNode(name="n2")]
        self.rows = {node.name: make_node(node.name) for node in self.nodes}
        named = {"model": make_model().name, "dataset": make_dataset().name}
        retry = {"max_attempts": 20, "backoff_s": 0}
        self.job = make_job(make_user(), spec={**named, "retry": retry})
        self.holder = self.place()
        self.run_(2 * LEASE_S + PLAY_S)

    # What happens to clocks and machines

    @rule(seconds=st.integers(1, 15))
    def run(self, seconds: int) -> None:
        self.run_(seconds)

    @rule(by_s=jumps, direction=directions)
    def jump_of_the_controllers_clock(self, by_s: float, direction: int) -> None:
        self.controller.wall += by_s * direction
        self.disturbed_at = self.true
        self.run_(TICK_S)

    @rule(node=st.integers(0, 1), by_s=jumps, direction=directions)
    def jump_of_a_nodes_clock(self, node: int, by_s: float, direction: int) -> None:
        if not self.nodes[node].sleeps:
            self.nodes[node].wall += by_s * direction

    @rule(node=st.integers(0, 1), seconds=st.sampled_from([1, 3, 8, 20]), away=st.booleans(), by_s=jumps)
    def sleep_of_a_node(self, node: int, seconds: float, away: bool, by_s: float) -> None:
        """`away`: when it wakes, Redis is away, so that it can't ask who holds what; then its clock goes back."""
        self.nodes[node].sleeps = True
        self.run_(seconds)
        if away:
            self.book.down.set()
        self.nodes[node].sleeps = False
        if away:
            self.run_(TICK_S)
            self.nodes[node].wall -= by_s
            self.redis_is_away(TICK_S)

    @rule(seconds=st.sampled_from([1, 8, 20]))
    def sleep_of_the_controller(self, seconds: float) -> None:
        self.controller.sleeps = True
        self.run_(seconds)
        self.controller.sleeps = False

    @rule(seconds=st.sampled_from([1, 4, 9]))
    def redis_is_away(self, seconds: float) -> None:
        self.book.down.set()
        self.run_(seconds)
        self.book.down.clear()

    @precondition(lambda self: not any(node.dead for node in self.nodes))
    @rule(node=st.integers(0, 1))
    def death_of_a_node(self, node: int) -> None:
        """It says nothing more, and its clocks run on: cut off, or frozen."""
        self.nodes[node].dead = True

    @rule()
    def return_of_the_dead(self) -> None:
        for node in self.nodes:
            node.dead = False

    @rule()
    def a_lost_node_is_noticed_within_the_bound(self) -> None:
        """The same as the invariant, with the time that it takes."""
        self.run_(2 * LEASE_S + PLAY_S + UPKEEP_S + TICK_S)

    # What must hold

    @invariant()
    def whoever_may_store_holds_the_lease(self) -> None:
        live = set(Attempt.objects.filter(finished_at=None).values_list("token", flat=True))
        for node in self.nodes:
            if not node.silent:
                for token, (_, lease) in node.held.items():
                    assert not lease.may_store(lambda: True) or token in live, f"{node.name} stores without a lease"

    def a_lease_lapsed_rightly(self, ended: Attempt) -> None:
        node = self.node(ended)
        unheard_s = self.true - node.heard_at
        assert unheard_s >= LEASE_S - PLAY_S, f"{ended} was heard {unheard_s} s ago and lost its lease"
        assert unheard_s >= 1.5 * BEAT_INTERVAL_S, "it beat on"

    def none_lives_without_a_word(self) -> None:
        for attempt in Attempt.objects.filter(finished_at=None).select_related("node"):
            undisturbed_s = self.true - max(self.disturbed_at, self.node(attempt).heard_at)
            assert undisturbed_s <= 2 * LEASE_S + PLAY_S + UPKEEP_S, f"{attempt} lives, unheard for {undisturbed_s} s"

    # How the world goes

    def run_(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.tick()

    def tick(self) -> None:
        self.true += TICK_S
        for machine in (self.controller, *self.nodes):
            machine.pass_by(TICK_S)
        for node in self.nodes:
            if not node.silent:
                self.beat(node)
        if self.controller.sleeps or self.book.down.is_set():
            self.disturbed_at = self.true
        if not self.controller.sleeps:
            self.control()
        for node in self.nodes:
            if not node.silent:
                node.look()
        if self.book.down.is_set():  # else the next look at it would tell
            self.whoever_may_store_holds_the_lease()
        self.none_lives_without_a_word()

    def beat(self, node: WorkerNode) -> None:
        if self.true >= node.beat_at + BEAT_INTERVAL_S and not self.book.down.is_set():
            node.beat_at = self.true
            running = tuple(running for running, _ in node.held.values())
            self.stream.append((node, Heartbeat(node=node.name, at=node.wall, running=running)))

    def control(self) -> None:
        """As ingest, upkeep and the scheduler do, one after the other."""
        if self.book.down.is_set():
            self.hearing.lost()
            return
        began = self.hearing.listening()
        beats = {node.name: beat for node, beat in self.stream}
        for node, _ in self.stream:
            node.heard_at = self.true
        self.stream.clear()
        leases.renew(beats, leases.held(beats), timezone.now())
        Node.objects.filter(name__in=beats).update(last_seen_at=timezone.now())
        self.hearing.heard(began)
        live = list(Attempt.objects.filter(finished_at=None).select_related("node"))
        if (self.true % UPKEEP_S == 0) and (heard := self.hearing.whole_lease()):
            leases.expire(heard)
            for attempt in live:
                attempt.refresh_from_db()
                if attempt.reason == Reason.NODE_LOST:
                    self.a_lease_lapsed_rightly(attempt)
        self.job.refresh_from_db()
        if self.job.status == Status.QUEUED:
            self.holder = self.place()
        elif self.job.status == Status.FAILED:  # its tries are used up
            self.job = make_job(self.job.owner, spec=self.job.spec)
        now_live = Attempt.objects.filter(finished_at=None)
        self.book.holders = {one.job_id: f"{one.number}:{one.token}" for one in now_live}

    def place(self) -> WorkerNode | None:
        """The job's next attempt, on a node that isn't silent."""
        node = next((node for node in self.nodes if not node.silent), None)
        if node is None:
            return None
        row = self.rows[node.name]
        assert services.allocate(Placement(self.job.pk, row.pk, (row.accelerators.get().pk,)))
        attempt = Attempt.objects.get(job=self.job, finished_at=None)
        assert services.mark_started(self.job.pk, attempt.number)
        self.book.holders[self.job.pk] = f"{attempt.number}:{attempt.token}"
        node.heard_at = self.true
        node.start(attempt, self.book)
        return node

    def node(self, attempt: Attempt) -> WorkerNode:
        return next(node for node in self.nodes if node.name == attempt.node.name)


class _Clock:
    now: Callable[[], datetime] = staticmethod(lambda: datetime(2026, 3, 1, tzinfo=UTC))


_clock = _Clock()


@pytest.fixture
def simulated_time(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Whatever asks Django for the time is told the controller's."""
    settings.LIFTOFF_NODE_LOST_S = LEASE_S
    monkeypatch.setattr(timezone, "now", lambda: _clock.now())


@pytest.mark.usefixtures("simulated_time")
def test_no_jump_of_a_clock_and_no_sleep_makes_two_holders_or_ends_a_lease_that_is_renewed() -> None:
    run_state_machine_as_test(
        World,
        settings=hypothesis_settings(
            max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.usefixtures("simulated_time")
@pytest.mark.parametrize("by", [timedelta(days=-30), timedelta(hours=-1), timedelta(hours=1), timedelta(days=30)])
def test_a_lost_node_is_noticed_after_a_jump_as_without(by: timedelta) -> None:
    world = World()
    world.nodes[0].dead = True
    world.controller.wall += by.total_seconds()
    world.disturbed_at = world.true
    world.a_lost_node_is_noticed_within_the_bound()
    first, second = Attempt.objects.order_by("number")
    assert (first.reason, first.node.name) == (Reason.NODE_LOST, "n1")
    assert (second.finished_at, second.node.name) == (None, "n2")
    world.return_of_the_dead()
    world.run_(2 * TICK_S)
    assert not world.nodes[0].held, "it came back and knows"


@pytest.mark.usefixtures("simulated_time")
def test_a_clock_that_goes_back_doesnt_make_a_node_forget_that_it_slept() -> None:
    world = World()
    world.sleep_of_a_node(0, 20, away=True, by_s=90)
    assert Attempt.objects.count() == 2
