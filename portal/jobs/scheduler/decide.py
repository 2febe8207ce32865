"""Who starts where, who waits and why: a pure function from queue, fleet and policy to decisions.

Knows nothing of databases or clocks, nor how a decision is carried out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from portal.jobs.scheduler.backfill import Reservation, earliest, keep
from portal.jobs.scheduler.decisions import Decision, Placement, Preempt, Wait
from portal.jobs.scheduler.expect import Timetable
from portal.jobs.scheduler.fleet import FleetNode
from portal.jobs.scheduler.order import effective_priority, in_order
from portal.jobs.scheduler.place import place
from portal.jobs.scheduler.policy import Policy
from portal.jobs.scheduler.pools import Pool, Pools
from portal.jobs.scheduler.preempt import Room
from portal.jobs.scheduler.queue import Waiting
from portal.jobs.scheduler.share import Ledger
from portal.jobs.scheduler.why import Reasons

DEFAULT = Policy()


@dataclass
class Blocked:
    """A job that can't start now."""

    job: Waiting
    pool: Pool
    ahead: int | None
    reservation: Reservation | None = None
    preempts: Sequence[Preempt] = ()


@overload
def decide(
    queue: Sequence[Waiting],
    fleet: Sequence[FleetNode],
    *,
    usage: Mapping[str, float] | None = None,
    now: float = 0.0,
) -> list[Placement | Wait]: ...


@overload
def decide(
    queue: Sequence[Waiting],
    fleet: Sequence[FleetNode],
    policy: Policy,
    usage: Mapping[str, float] | None = None,
    now: float = 0.0,
) -> list[Decision]: ...


def decide(
    queue: Sequence[Waiting],
    fleet: Sequence[FleetNode],
    policy: Policy = DEFAULT,
    usage: Mapping[str, float] | None = None,
    now: float = 0.0,
) -> list[Decision] | list[Placement | Wait]:
    """One Placement or Wait for every waiting job, by effective priority; Wait positions count from 1 in that order.

    `queue`: jobs that may start now, in any order, each number once. Leave out one whose back-off isn't over.
    `fleet`: every node, also those offline, draining or closed (they are named in reasons), with its present devices
    and all who hold them; a job that was told to stop still holds its devices and says so (Held.stopping).
    `policy`: what to weigh how; without one, nobody is preempted and no device is shared.
    `usage`: team → decayed device-seconds up to now, those of running jobs included; portal.jobs.scheduler.share counts
    them. A team that isn't named has used nothing.
    `now`: seconds of any clock, the one of `Waiting.queued_at`.

    A Preempt stands just before the Wait of the job it makes room for. The same input gives the same decisions.
    """
    decision = Deciding(queue, fleet, policy, usage, now)
    turns = list(decision.turns())
    return decision.told(turns)


class Deciding:
    """`decide` in two steps, for who wants to start a job before it is decided of those behind it."""

    def __init__(
        self,
        queue: Sequence[Waiting],
        fleet: Sequence[FleetNode],
        policy: Policy = DEFAULT,
        usage: Mapping[str, float] | None = None,
        now: float = 0.0,
    ) -> None:
        self._queue, self._policy, self._now = queue, policy, now
        self._pools = Pools(fleet, queue, policy)
        teams = {job.team for job in queue}
        self._ledger = Ledger(usage or {}, teams, sum(len(node.devices) for node in fleet), policy)

    def turns(self) -> Iterator[Placement | Blocked]:
        """Each job in its turn: it starts, or it can't. What has come is final."""
        pools, ledger, policy, now = self._pools, self._ledger, self._policy, self._now
        room = Room(pools, lambda job: effective_priority(job, policy, now, ledger.penalty(job.team)))
        keeping = _Keeping(pools, room if policy.preempts else None)
        for job in in_order(self._queue, policy, now, ledger):
            pool = pools.answering(job.resources)
            closed = job.resources.devices > 0 and keeping.closed(pool)  # who needs no device passes nobody
            placed = None if closed else place(job, pool, pools)
            if placed is not None:
                ledger.give(job.team, job.nodes * job.resources.devices, job.known_s)
                yield placed
            else:
                yield keeping.block(job, pool)

    def full(self) -> bool:
        """Whether nobody else can start: every device is taken, none is shared and nobody makes room."""
        if self._policy.preempts or self._policy.packs:
            return False
        return not any(device.free for node in self._pools.nodes for device in node.devices)

    def told(self, turns: Sequence[Placement | Blocked]) -> list[Decision]:
        """All decisions, once all turns have come: positions, reasons and expected starts."""
        return _told(turns, self._pools, Reasons(self._pools, self._ledger, self._now))


class _Keeping:
    """Keeps devices for the jobs that can't start, as far as the policy goes."""

    def __init__(self, pools: Pools, room: Room | None) -> None:
        self._pools = pools
        self._policy = pools.policy
        self._room = room
        self._kept: dict[object, list[int]] = {}
        """Group and class, or node → the jobs that have devices kept there."""
        self._closed: set[object] = set()

    def closed(self, pool: Pool) -> bool:
        """Whether an earlier job waits for these devices and nobody may pass it."""
        return not self._policy.backfill and not self._closed.isdisjoint(pool.units)

    def block(self, job: Waiting, pool: Pool) -> Blocked:
        """The job waits."""
        ahead, kept = self._ahead(pool)
        blocked = Blocked(job, pool, ahead)
        if not pool.possible(job):
            return blocked
        if kept < self._policy.reservations:
            blocked.reservation = earliest(job, pool, self._pools)
        soon = blocked.reservation is not None and blocked.reservation.start_s <= self._policy.patience_s
        if self._room is not None and not soon and (made := self._room.make(job, pool)):
            blocked.preempts, blocked.reservation = made
        if blocked.reservation is not None:
            keep(job, blocked.reservation, self._pools)
            for unit in _units(job, blocked.reservation):
                self._kept.setdefault(unit, []).append(job.job)
        self._closed |= pool.units
        return blocked

    def _ahead(self, pool: Pool) -> tuple[int | None, int]:
        """The first job that has devices kept there, and how many have."""
        first: int | None = None
        most = 0
        for unit in pool.units:
            jobs = self._kept.get(unit)
            if jobs is not None:
                first = jobs[0] if first is None else min(first, jobs[0])
                most = max(most, len(jobs))
        return first, most


def _units(job: Waiting, reservation: Reservation) -> set[object]:
    """What a reservation takes a place of: the nodes, and for a job that names no node also all that are like them."""
    units: set[object] = {node.order for node, _ in reservation.parts}
    if job.resources.node is None:
        units |= {(node.group, device.cls) for node, devices in reservation.parts for device in devices}
    return units


def _told(turns: Sequence[Placement | Blocked], pools: Pools, reasons: Reasons) -> list[Decision]:
    """Positions, reasons and expected starts, once it is known who starts."""
    timetable = Timetable(pools)
    decisions: list[Decision] = []
    position = 0
    for turn in turns:
        if isinstance(turn, Placement):
            decisions.append(turn)
            continue
        position += 1
        decisions += turn.preempts
        stopped = [preempt.job for preempt in turn.preempts]
        why = reasons.of(turn.job, turn.pool, turn.ahead, turn.reservation, stopped)
        expected_s = timetable.expected_s(turn.job, turn.pool, turn.reservation)
        decisions.append(Wait(turn.job.job, position, why, expected_s))
    return decisions
