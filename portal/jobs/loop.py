"""The scheduling tick: reads queue and fleet, lets the scheduler decide, carries it out; and the sweep beside it.

Knows nothing of events; does not decide anything itself.
"""

import logging
from collections.abc import Hashable, Mapping
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from portal.fleet.selectors import is_online
from portal.jobs import dispatch, orders, queue, services
from portal.jobs.holdings import fleet, holdings
from portal.jobs.lifecycle import HOLDS_DEVICES, Status
from portal.jobs.models import Attempt
from portal.jobs.scheduler import Blocked, Deciding, FleetNode, Placement, Policy, Preempt, Wait
from portal.jobs.usage import Usage
from workers.contract.reasons import Reason

log = logging.getLogger(__name__)
RESEND_AFTER_S = 4
STEADY_S = 5.0
"""While queue and fleet stay as they were, it is decided again this often: expected ends move, priorities grow."""
SWEPT = (
    "job__status", "number", "node__name", "node__last_seen_at", "dispatched_at", "started_at", "lease_until",
    "preempt_asked_at",
)  # fmt: skip


class Rounds:
    """One leading controller's rounds. What it remembers between them only saves work."""

    def __init__(self) -> None:
        self._usage = Usage()
        self._seen: Hashable = None
        self._decided_at = float("-inf")
        self._told: dict[int, queue.Told] | None = None
        self._news: list[tuple[int, queue.Told]] = []

    def tick(self, now: datetime | None = None) -> int:
        """Schedule once. Returns how many attempts were dispatched."""
        now = now or timezone.now()
        policy: Policy = settings.LIFTOFF_SCHEDULING
        mark = queue.mark(now)
        if not mark.jobs:
            return 0
        held = holdings(now, preempts=policy.preempts)
        nodes = fleet(held, now)
        holders = tuple((one.device, one.held.job, one.held.stopping) for one in held)
        seen = (policy, mark, holders, _look(nodes))
        used = self._usage.step(held, now, policy.half_life_s)
        started = 0
        if seen != self._seen or not 0 <= now.timestamp() - self._decided_at < STEADY_S:
            started = self._decide(now, policy, nodes, used)
            self._seen, self._decided_at = seen, now.timestamp()
        self._tell()
        return started

    def _decide(self, now: datetime, policy: Policy, nodes: list[FleetNode], used: Mapping[str, float]) -> int:
        waiting = queue.read(now)
        told = queue.told(now) if self._told is None else self._told
        self._told = {job.job: told[job.job] for job in waiting if job.job in told}
        deciding = Deciding(waiting, nodes, policy, used, now.timestamp())
        turns: list[Placement | Blocked] = []
        placed: list[Placement] = []
        started = 0
        for turn in deciding.turns():
            turns.append(turn)
            if isinstance(turn, Placement):
                placed.append(turn)
            elif placed and not started:
                started = services.allocate_all(placed)  # who is next doesn't wait for what is said to those behind
                placed = []
        started += services.allocate_all(placed)
        decisions = deciding.told(turns)
        for decision in decisions:
            if isinstance(decision, Preempt):
                services.preempt(decision.job, decision.reason)
        self._news = queue.news((one for one in decisions if isinstance(one, Wait)), self._told, now)
        return started

    def _tell(self) -> None:
        some, self._news = self._news[: queue.TOLD_AT_ONCE], self._news[queue.TOLD_AT_ONCE :]
        queue.tell(some)
        if self._told is not None:
            self._told.update(some)


def tick(now: datetime | None = None) -> int:
    """One round by itself."""
    return Rounds().tick(now)


def _look(nodes: list[FleetNode]) -> Hashable:
    """What a decision depends on of the fleet, without who holds it."""
    return tuple(
        (
            *(node.id, node.online, node.draining, node.closed, tuple(sorted(node.labels.items()))),
            *((device.id, device.memory_bytes) for device in node.devices),
        )
        for node in nodes
    )


def sweep(now: datetime | None = None, *, give_up: bool = True) -> None:
    """Repeat commands that may have been lost on the way, and give up what a node never started.

    `give_up`: whether this controller has heard the nodes long enough to know that none has.
    """
    now = now or timezone.now()
    live = Attempt.objects.filter(finished_at=None, job__status__in=HOLDS_DEVICES).select_related("job", "node")
    for attempt in live.only(*SWEPT).order_by():
        job, node = attempt.job, attempt.node
        waited_s = (now - attempt.dispatched_at).total_seconds()
        if not is_online(node, now):
            continue  # its lease says when to end it (leases)
        if job.status == Status.CANCELLING:
            dispatch.cancel(job.pk, attempt.number, node.name)
        elif attempt.preempt_asked_at is not None:
            dispatch.preempt(job.pk, attempt.number, node.name)
        elif job.status == Status.DISPATCHED and attempt.started_at is None and attempt.lease_until is None:
            if give_up and waited_s > settings.LIFTOFF_START_TIMEOUT_S:
                services.finish(
                    job.pk, attempt.number, Reason.NEVER_STARTED, f"Node {node.name} had {waited_s:.0f} s to start it."
                )
            elif waited_s > RESEND_AFTER_S:
                dispatch.start(orders.rebuild(attempt))
