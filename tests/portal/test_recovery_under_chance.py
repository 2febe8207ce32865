"""Whatever happens in whatever order: runs that start, speak, end, fall silent, are stopped or preempted; deliveries
that are lost, doubled, reordered or another's. After every step the database makes sense."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from portal.fleet.models import Accelerator, Node
from portal.jobs import leases, loop, services
from portal.jobs.leases import lease_s
from portal.jobs.lifecycle import FINAL, HOLDS_DEVICES, MOVES, Status, final_status
from portal.jobs.models import Allocation, Attempt, Job
from portal.jobs.scheduler import Placement
from portal.telemetry import gaps
from portal.telemetry.models import MetricPoint
from portal.telemetry.record import record
from tests.portal.factories import GIB, make_dataset, make_job, make_model, make_node, make_user
from workers.contract.events import EVENT, Envelope, Heartbeat, RunningAttempt
from workers.contract.reasons import Outcome, Reason

pytestmark = pytest.mark.django_db

ENDS = [reason for reason in Reason if reason not in (Reason.NODE_LOST, Reason.NEVER_STARTED)]
"""What a node says of an end."""
some = st.integers(0, 10_000)


class Recovery(RuleBasedStateMachine):
    """Two nodes with three devices. The nodes' spools are lists here; their clock is this machine's."""

    def __init__(self) -> None:
        super().__init__()
        Job.objects.all().delete()
        Node.objects.all().delete()
        self.now = timezone.now() + timedelta(days=1)
        self.nodes = [make_node("n1", devices=2), make_node("n2")]
        self.owner, model, dataset = make_user(), make_model().name, make_dataset().name
        self.named = {"model": model, "dataset": dataset}
        self.spools: dict[int, list[Envelope]] = {}
        self.delivered: dict[int, set[int]] = {}
        self.stopped: set[int] = set()
        self.pass_time(0)

    def teardown(self) -> None:
        """In the end every spool arrives whole, and everything that was emitted is there once."""
        for pk, spool in self.spools.items():
            self.arrive(pk, spool)
        self.everything_makes_sense()

    # What users do

    @rule(attempts=st.integers(1, 3), after_kill=st.booleans())
    def submit(self, attempts: int, after_kill: bool) -> None:
        retry = {"max_attempts": attempts, "backoff_s": 5, "after_kill": after_kill}
        make_job(self.owner, spec={**self.named, "retry": retry, "preemptible": True})

    @rule(which=some)
    def stop(self, which: int) -> None:
        if job := self.pick(Job.objects.exclude(status__in=FINAL), which):
            self.stopped.add(job.pk)
            services.cancel(job, self.owner)

    # What the controller does

    @rule()
    def schedule(self) -> None:
        loop.tick(self.now)

    @rule(job=some, device=some)
    def place_anywhere(self, job: int, device: int) -> None:
        """As a second scheduler would that knows nothing of the first."""
        found, accelerator = self.pick(Job.objects.all(), job), self.pick(Accelerator.objects.all(), device)
        if found and accelerator:
            free = not Allocation.objects.filter(accelerator=accelerator, released_at=None).exists()
            may = free and found.status == Status.QUEUED
            assert services.allocate(Placement(found.pk, accelerator.node_id, (accelerator.pk,))) == may

    @rule(job=some, device=some, gib=st.integers(1, 17))
    def share_anywhere(self, job: int, device: int, gib: int) -> None:
        """The same, with so much of the device's 16 GiB."""
        found, accelerator = self.pick(Job.objects.all(), job), self.pick(Accelerator.objects.all(), device)
        if found and accelerator:
            held = Allocation.objects.filter(accelerator=accelerator, released_at=None)
            parts = list(held.values_list("reserved_bytes", flat=True))
            room = None not in parts and sum(parts) + gib * GIB <= accelerator.memory_bytes
            placement = Placement(found.pk, accelerator.node_id, (accelerator.pk,), reserved_bytes=gib * GIB)
            assert services.allocate(placement) == (room and found.status == Status.QUEUED)

    @rule()
    def sweep(self) -> None:
        loop.sweep(self.now)

    @rule()
    def expire(self) -> None:
        leases.expire(self.now)

    @rule(which=some)
    def preempt(self, which: int) -> None:
        if job := self.pick(Job.objects.filter(status=Status.RUNNING), which):
            services.preempt(job.pk, "Makes room.")

    @rule()
    def go_on_without_what_is_missing(self) -> None:
        gaps.chase(self.now)

    # What nodes do

    @rule(seconds=st.sampled_from([1, 10, 60, 600]), silent=st.sampled_from([None, 0, 1]))
    def pass_time(self, seconds: int, silent: int | None = None) -> None:
        self.now += timedelta(seconds=seconds)
        heard = [node.pk for place, node in enumerate(self.nodes) if place != silent]
        Node.objects.filter(pk__in=heard).update(last_seen_at=self.now)

    @rule(which=some)
    def renew(self, which: int) -> None:
        if attempt := self.pick(Attempt.objects.select_related("node"), which):
            running = (RunningAttempt(job=attempt.job_id, attempt=attempt.number, token=attempt.token),)
            beats = {attempt.node.name: Heartbeat(node=attempt.node.name, at=0, running=running)}
            leases.renew(beats, leases.held(beats), self.now)

    @rule(which=some, count=st.integers(1, 4))
    def speak(self, which: int, count: int) -> None:
        if attempt := self.pick(Attempt.objects.all(), which):
            for _ in range(count):
                self.spool(attempt, {"type": "metric", "values": {"loss": 1.0}})

    @rule(which=some)
    def start(self, which: int) -> None:
        if (attempt := self.pick(Attempt.objects.all(), which)) and not self.spools.get(attempt.pk):
            self.spool(attempt, {"type": "started", "pid": 1})
            self.arrive(attempt.pk, self.spools[attempt.pk])

    @rule(which=some, reason=st.sampled_from(ENDS))
    def end(self, which: int, reason: Reason) -> None:
        if attempt := self.pick(Attempt.objects.all(), which):
            self.spool(attempt, {"type": "finished", "reason": reason})

    @rule(which=some, places=st.lists(some, min_size=1, max_size=6))
    def deliver(self, which: int, places: list[int]) -> None:
        """Some of a spool, in any order and any number of times."""
        if (attempt := self.pick(Attempt.objects.all(), which)) and (spool := self.spools.get(attempt.pk)):
            self.arrive(attempt.pk, [spool[place % len(spool)] for place in places])

    @rule(which=some)
    def deliver_all(self, which: int) -> None:
        if (attempt := self.pick(Attempt.objects.all(), which)) and attempt.pk in self.spools:
            self.arrive(attempt.pk, self.spools[attempt.pk])

    @rule(which=some, reason=st.sampled_from(ENDS))
    def deliver_anothers(self, which: int, reason: Reason) -> None:
        """The end of an attempt of the same number, whose token is not this one's."""
        if attempt := self.pick(Attempt.objects.all(), which):
            stale = self.envelope(attempt, 1, {"type": "finished", "reason": reason}, token="another")
            record([stale])

    # What must hold

    @invariant()
    def everything_makes_sense(self) -> None:
        for device in Accelerator.objects.all():
            self.check_device(device)
        for job in Job.objects.prefetch_related("attempts__allocations", "transitions"):
            self.check_job(job)
        for pk, seqs in self.delivered.items():
            stored = sorted(MetricPoint.objects.filter(attempt_id=pk).values_list("seq", flat=True))
            assert stored == [one.seq for one in self.spools[pk] if one.seq in seqs and one.event.type == "metric"]

    def check_device(self, device: Accelerator) -> None:
        """One holder, or several that share it and together stay within its memory."""
        parts = list(device.allocations.filter(released_at=None).values_list("reserved_bytes", flat=True))
        assert len(parts) < 2 or None not in parts
        assert sum(part or 0 for part in parts) <= device.memory_bytes

    def check_job(self, job: Job) -> None:
        attempts = list(job.attempts.all())
        live = [attempt for attempt in attempts if attempt.finished_at is None]
        held = [a for attempt in attempts for a in attempt.allocations.all() if a.released_at is None]
        if job.status in HOLDS_DEVICES:
            assert [attempt.number for attempt in live] == [job.attempt_number]
            assert [allocation.attempt_id for allocation in held] == [live[0].pk]
        else:
            assert not live
            assert not held
        at = ""
        for change in job.transitions.all():
            assert change.old == at or (change.old == change.new == at)
            assert change.old in ("", change.new) or Status(change.new) in MOVES[Status(change.old)]
            at = change.new
        assert at == job.status
        counted = [attempt for attempt in attempts if attempt.reason != Reason.PREEMPTED]
        assert len(counted) <= job.spec["retry"]["max_attempts"]
        if job.status in FINAL:
            self.check_end(job, attempts)
        else:
            assert not job.reason

    def check_end(self, job: Job, attempts: list[Attempt]) -> None:
        reason = Reason(job.reason)
        assert final_status(reason.outcome) == job.status
        last = Reason(attempts[-1].reason) if attempts else None
        match reason.outcome:
            case Outcome.CANCELLED:
                assert job.pk in self.stopped or last is Reason.CANCELLED
            case _:
                assert last is reason

    # The machine's hands

    def pick(self, rows: Any, which: int) -> Any:
        found = list(rows.order_by("pk"))
        return found[which % len(found)] if found else None

    def envelope(self, attempt: Attempt, seq: int, event: dict[str, Any], token: str = "") -> Envelope:
        return Envelope(
            job=attempt.job_id,
            attempt=attempt.number,
            token=token or attempt.token,
            seq=seq,
            at=1.0,
            event=EVENT.validate_python(event),
        )

    def spool(self, attempt: Attempt, event: dict[str, Any]) -> None:
        spool = self.spools.setdefault(attempt.pk, [])
        if not spool or spool[-1].event.type != "finished":
            spool.append(self.envelope(attempt, len(spool) + 1, event))

    def arrive(self, pk: int, envelopes: list[Envelope]) -> None:
        record(list(envelopes))
        self.delivered.setdefault(pk, set()).update(one.seq for one in envelopes)


def test_no_order_of_events_leads_to_nonsense(live_redis: object) -> None:
    assert lease_s() < 60
    chosen = settings(
        max_examples=40,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    run_state_machine_as_test(Recovery, settings=chosen)
