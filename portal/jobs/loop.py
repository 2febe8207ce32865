"""The scheduling tick: reads queue and fleet, lets the scheduler decide, carries it out; and the sweep beside it.

Knows nothing of events; does not decide anything itself.
"""

import logging
import time
from collections.abc import Hashable
from datetime import datetime

from django.conf import settings
from django.db.models import Prefetch
from django.utils import timezone

from portal.fleet.selectors import is_online
from portal.jobs import dispatch, members, orders, queue, services
from portal.jobs.holdings import fleet, holdings
from portal.jobs.lifecycle import HOLDS_DEVICES, Status
from portal.jobs.models import Attempt, Member
from portal.jobs.scheduler import (
    Blocked,
    Deciding,
    Decision,
    FleetNode,
    Placement,
    Policy,
    Preempt,
    Wait,
    Waiting,
)
from portal.jobs.usage import Usage
from workers.contract.reasons import Reason

log = logging.getLogger(__name__)
RESEND_AFTER_S = 4
SAY_S = 1.0
"""Who can start does so in every round; why the others wait is worked out no more often than this."""
SAYS_SHARE = 0.1
"""Nor for a larger share of the time, which a long queue or a busy machine would make of it."""
STEADY_S = 5.0
"""While queue and fleet stay as they were, it is decided again this often: expected ends move, priorities grow."""
SWEPT = (
    "job__status", "number", "nodes", "node__name", "node__last_seen_at", "dispatched_at", "started_at", "lease_until",
    "preempt_asked_at",
)  # fmt: skip


class Rounds:
    """One leading controller's rounds. What it remembers between them only saves work."""

    def __init__(self) -> None:
        self._usage = Usage()
        self._seen: Hashable = None
        self._said_at = float("-inf")
        self._say_s = SAY_S
        self._mark: queue.Mark | None = None
        self._waiting: list[Waiting] = []
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
        since_s = now.timestamp() - self._said_at
        steady = seen == self._seen and 0 <= since_s < STEADY_S
        says = not 0 <= since_s < self._say_s
        started, began = 0, time.monotonic()
        if not steady and (says or _open(nodes, policy)):
            if mark != self._mark or says:
                self._mark, self._waiting = mark, queue.read(now)
            started = self._decide(Deciding(self._waiting, nodes, policy, used, now.timestamp()), now, says)
        if not steady and says:
            self._seen, self._said_at = seen, now.timestamp()
            self._say_s = max(SAY_S, (time.monotonic() - began) / SAYS_SHARE)
        self._tell()
        return started

    def _decide(self, deciding: Deciding, now: datetime, says: bool) -> int:
        """Start who may start; `says`: then have the others told why they wait."""
        turns: list[Placement | Blocked] = []
        placed: list[Placement] = []
        started = 0
        for turn in deciding.turns():
            turns.append(turn)
            if isinstance(turn, Placement):
                placed.append(turn)
                continue
            if placed and not started:
                started = services.allocate_all(placed)  # who is next doesn't wait for what is said to those behind
                placed = []
            if not says and (len(turns) == 1 or isinstance(turns[-2], Placement)) and deciding.full():
                break
        started += services.allocate_all(placed)
        if says:
            self._say(deciding.told(turns), now)
        return started

    def _say(self, decisions: list[Decision], now: datetime) -> None:
        for decision in decisions:
            if isinstance(decision, Preempt):
                services.preempt(decision.job, decision.reason)
        told = queue.told(now) if self._told is None else self._told
        self._told = {job.job: told[job.job] for job in self._waiting if job.job in told}
        self._news = queue.news((one for one in decisions if isinstance(one, Wait)), self._told, now)

    def _tell(self) -> None:
        some, self._news = self._news[: queue.TOLD_AT_ONCE], self._news[queue.TOLD_AT_ONCE :]
        queue.tell(some)
        if self._told is not None:
            self._told.update(some)


def tick(now: datetime | None = None) -> int:
    """One round by itself."""
    return Rounds().tick(now)


def _open(nodes: list[FleetNode], policy: Policy) -> bool:
    """Whether somebody could start now."""
    shared = policy.preempts or policy.packs
    return bool(shared) or any(not device.holds for node in nodes if node.online for device in node.devices)


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
    live = live.only(*SWEPT).order_by()
    if any(attempt.nodes > 1 for attempt in live):
        members.end_overdue(now)
        live = live.prefetch_related(
            Prefetch("members", Member.objects.filter(finished_at=None).select_related("node"))
        )
    for attempt in live:
        for place in attempt.members.all() if attempt.nodes > 1 else [attempt]:
            _repeat(attempt, place, now, give_up)


def _repeat(attempt: Attempt, place: Attempt | Member, now: datetime, give_up: bool) -> None:
    """What one node may not have heard. `place`: the attempt there."""
    job, node = attempt.job, place.node
    waited_s = (now - attempt.dispatched_at).total_seconds()
    if not is_online(node, now):
        return  # its lease says when to end it (leases)
    if job.status == Status.CANCELLING:
        dispatch.cancel(job.pk, attempt.number, node.name)
    elif attempt.preempt_asked_at is not None:
        dispatch.preempt(job.pk, attempt.number, node.name)
    elif place.lease_until is None and (isinstance(place, Member) or _waits_to_start(attempt)):
        if give_up and waited_s > settings.LIFTOFF_START_TIMEOUT_S:
            services.finish(
                job.pk, attempt.number, Reason.NEVER_STARTED, f"Node {node.name} had {waited_s:.0f} s to start it."
            )
        elif waited_s > RESEND_AFTER_S:
            dispatch.start(orders.rebuild(place))


def _waits_to_start(attempt: Attempt) -> bool:
    return attempt.job.status == Status.DISPATCHED and attempt.started_at is None
