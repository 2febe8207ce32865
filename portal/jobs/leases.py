"""An attempt holds its devices by a lease: each heartbeat that names it renews it, and a lapsed one ends the attempt.

A lease lapses only before a controller that has itself heard the nodes for a whole lease: an outage of Redis, the
database or the controller, or a clock that jumps, ends no run. Does not know how heartbeats come (telemetry).
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone

from portal.fleet.selectors import is_online
from portal.fleet.services import note
from portal.jobs.ending import finish
from portal.jobs.models import Attempt, Member
from workers.contract.events import Heartbeat, RunningAttempt
from workers.contract.names import token_of
from workers.contract.reasons import Reason

BREAK_S = 5.0
"""Longer between two reads of the nodes' stream, and it was not being heard."""
JUMP_S = 2.0
"""A wall clock that goes this much faster or slower than the monotonic one between two reads has jumped."""


def lease_s() -> float:
    """Seconds a lease holds without being renewed."""
    seconds: float = settings.LIFTOFF_NODE_LOST_S
    return seconds


class Hearing:
    """For how long this controller has heard the nodes without a break. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = timezone.now) -> None:
        """`clock`: monotonic seconds; `now`: the wall clock that leases are written in."""
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._since: float | None = None
        self._last = 0.0
        self._last_wall = now()

    def listening(self) -> tuple[float, datetime]:
        """The moment at which a reading begins, by both clocks."""
        return self._clock(), self._now()

    def heard(self, began: tuple[float, datetime] | None = None) -> None:
        """The nodes' stream was read to its end, and what it said is stored. `began`: that reading; none is just now.

        What came while it was being stored is of the next reading.
        """
        with self._lock:
            at, wall = began or self.listening()
            passed = at - self._last
            jumped = abs((wall - self._last_wall).total_seconds() - passed) > JUMP_S
            if self._since is None or passed > BREAK_S or jumped:
                self._since = at
            self._last, self._last_wall = at, wall

    def lost(self) -> None:
        """It can't be read, or isn't this controller's to read."""
        with self._lock:
            self._since = None

    def whole_lease(self) -> datetime | None:
        """The moment up to which the nodes were heard, if they were for a lease's length without a break; else None."""
        with self._lock:
            if self._since is None or self._clock() - self._last > BREAK_S:
                return None
            return self._last_wall if self._last - self._since >= lease_s() else None


@dataclass(frozen=True)
class Held:
    """A live attempt on one of its nodes, as a heartbeat is compared with it. `member`: on which of several."""

    id: int
    job: int
    number: int
    token: str
    node: str
    status: str
    last_seq: int
    gap: bool
    leased: bool
    member: int | None = None

    @property
    def key(self) -> tuple[int, int | None]:
        """Names it among all."""
        return self.id, self.member

    def is_named(self, named: RunningAttempt) -> bool:
        """Whether a heartbeat means this attempt. A worker that knows no tokens names none."""
        return (self.job, self.number) == (named.job, named.attempt) and named.token in ("", self.token)


def held(nodes: Iterable[str]) -> list[Held]:
    """What the database says these nodes hold."""
    names = list(nodes)
    rows = Attempt.objects.filter(finished_at=None, nodes=1, node__name__in=names).order_by("pk")
    columns = (
        "pk", "job_id", "number", "token", "node__name", "job__status", "last_seq", "gap_since", "lease_until",
    )  # fmt: skip
    alone = [
        Held(pk, job, number, token, node, status, last_seq, gap is not None, until is not None)
        for pk, job, number, token, node, status, last_seq, gap, until in rows.values_list(*columns)
    ]
    return alone + _held_by_members(names)


def _held_by_members(nodes: list[str]) -> list[Held]:
    rows = Member.objects.filter(finished_at=None, node__name__in=nodes).select_related("attempt__job", "node")
    rows = rows.defer("order", "output", "parts", "attempt__order", "attempt__predicted", "attempt__job__spec")
    return [
        Held(
            id=attempt.pk,
            job=attempt.job_id,
            number=attempt.number,
            token=token_of(attempt.token, one.rank),
            node=one.node.name,
            status=attempt.job.status,
            last_seq=one.last_seq if one.rank else attempt.last_seq,
            gap=one.rank == 0 and attempt.gap_since is not None,
            leased=one.lease_until is not None,
            member=one.pk,
        )
        for one in rows.order_by("pk")
        for attempt in [one.attempt]
    ]


def renew(beats: dict[str, Heartbeat], live: list[Held], now: datetime) -> None:
    """Give what the nodes name another lease. `beats`: node → its newest heartbeat; `live`: what those nodes hold."""
    named = [one for one in live if any(one.is_named(running) for running in beats[one.node].running)]
    until = now + timedelta(seconds=lease_s())
    if alone := [one.id for one in named if one.member is None]:
        Attempt.objects.filter(pk__in=alone, finished_at=None).update(lease_until=until)
    if members := [one.member for one in named if one.member is not None]:
        Member.objects.filter(pk__in=members, finished_at=None).update(lease_until=until)


def expire(heard: datetime | None = None) -> int:
    """End every attempt whose lease had lapsed when the nodes were last `heard` (none: now); how many.

    Only for a controller that heard them for a whole lease. What a node has said since may be on its way.
    """
    now = heard or timezone.now()
    whole = timedelta(seconds=lease_s())
    # A clock that went back would let a lost attempt live as long as the jump.
    longest = max(now, timezone.now()) + whole
    columns = ("job_id", "number", "lease_until", "dispatched_at", "node__name", "node__last_seen_at")
    alone = Attempt.objects.filter(finished_at=None).select_related("node").only("nodes", *columns).order_by()
    members = Member.objects.filter(finished_at=None).select_related("attempt", "node").order_by()
    members = members.defer("order", "output", "parts", "attempt__order", "attempt__predicted")
    if all(one.nodes == 1 for one in alone):
        members = members.none()
    _shorten(Attempt, alone, longest)
    _shorten(Member, members, longest)
    lapsed = [(one, one.node) for one in alone if one.nodes == 1 and _lapsed(one, one, now, whole)]
    lapsed += [(one.attempt, one.node) for one in members if _lapsed(one, one.attempt, now, whole)]
    for attempt, node in lapsed:
        seen = f"was last seen at {node.last_seen_at:%H:%M:%S} UTC" if node.last_seen_at else "was never seen"
        if finish(attempt.job_id, attempt.number, Reason.NODE_LOST, f"Node {node.name} {seen}."):
            note(node, f"Lost job #{attempt.job_id}, attempt {attempt.number}: its lease lapsed; the node {seen}.")
    return len(lapsed)


def _shorten(model: type[Attempt] | type[Member], live: Iterable[Attempt | Member], longest: datetime) -> None:
    too_long = [one.pk for one in live if one.lease_until is not None and one.lease_until > longest]
    if too_long:
        rows = model.objects.filter(pk__in=too_long, finished_at=None, lease_until__gt=longest)
        rows.update(lease_until=longest)


def _lapsed(held: Attempt | Member, attempt: Attempt, now: datetime, whole: timedelta) -> bool:
    if held.lease_until is not None:
        return held.lease_until < now
    return not is_online(held.node, now) and now - attempt.dispatched_at > whole
