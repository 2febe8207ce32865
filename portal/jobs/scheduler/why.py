"""Why a job waits, in the sentence its page shows. Knows nothing of how it was decided."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from portal.jobs.scheduler.backfill import Reservation
from portal.jobs.scheduler.devices import NEVER, packable
from portal.jobs.scheduler.fleet import GIB, FleetNode
from portal.jobs.scheduler.order import waited_s
from portal.jobs.scheduler.pools import Pool, Pools
from portal.jobs.scheduler.queue import Waiting
from portal.jobs.scheduler.share import Ledger
from workers.contract.resources import Resources


@dataclass(frozen=True)
class Holders:
    """Who has a pool's devices: the first three jobs and how many more, the first launch among them.

    `stays[k]`: how many nodes have k devices that no launch holds. `kept_free`: a free device is kept for somebody.
    """

    jobs: tuple[int, ...]
    more: int
    launch: int | None
    stays: tuple[int, ...]
    kept_free: bool


class Reasons:
    """The sentences of one decision, once all its placements are made."""

    def __init__(self, pools: Pools, ledger: Ledger, now: float) -> None:
        self._pools = pools
        self._ledger = ledger
        self._now = now
        self._holders: dict[int, Holders] = {}
        self._sentences: dict[tuple[object, ...], str] = {}

    def of(
        self, job: Waiting, pool: Pool, ahead: int | None, reservation: Reservation | None, stopped: Sequence[int]
    ) -> str:
        """Why it waits. `ahead`: the first earlier job that waits for the same devices; `stopped`: who makes room."""
        wanted = job.resources
        if not self._pools.fleet:
            return "No node has reported yet; start a worker."
        if not pool.possible(job):
            return self._impossible(job, pool)
        if stopped:
            jobs = ", ".join(f"#{number}" for number in stopped[:3])
            return f"Waits for {self._asked(job, pool)}; job {jobs} is being stopped at a checkpoint to make room."
        if reservation is not None:
            names = [node.node.name for node, _ in reservation.parts]
            kept = f"node {names[0]} is" if len(names) == 1 else f"{len(names)} nodes are"
            return f"{self._blockers(job, pool, ahead)}; {kept} kept for it."
        size = job.planned_bytes if packable(job, self._pools.policy) else None
        over = waited_s(job, self._now) < self._pools.policy.old_s and self._ledger.over(job.team) > 1
        team = job.team if over else ""
        alike = (id(pool), wanted.devices, wanted.min_memory_gib, job.nodes, size, ahead, job.known_s is None, team)
        words = self._sentences.get(alike)
        if words is None:
            words = f"{self._blockers(job, pool, ahead)}.{self._more(job, pool)}"
            if team:
                words += f" Team {team} has used more than its share lately, so other teams go first."
            self._sentences[alike] = words
        return words

    def _asked(self, job: Waiting, pool: Pool) -> str:
        words = f"{job.resources.devices} {devices(job.resources)}"
        if job.nodes > 1:
            ready = _ready(job, pool)
            words += f" on each of {job.nodes} nodes ({ready} {'has' if ready == 1 else 'have'} them free)"
        if packable(job, self._pools.policy):
            words += f", or {(job.planned_bytes or 0) / GIB:.1f} GiB of one that may be shared"
        return words

    def _blockers(self, job: Waiting, pool: Pool, ahead: int | None) -> str:
        holders = self._of(pool)
        if not holders.jobs and ahead is not None:
            return f"Waits behind job #{ahead}, which needs the same devices"
        words = f"Waits for {self._asked(job, pool)}"
        if holders.jobs:
            jobs = ", ".join(f"#{number}" for number in holders.jobs)
            words += f", held by job {jobs}" + (f" and {holders.more:,} more" if holders.more else "")
        return words + (f", behind job #{ahead}" if ahead is not None else "")

    def _more(self, job: Waiting, pool: Pool) -> str:
        wanted, holders = job.resources.devices, self._of(pool)
        if holders.launch is not None and sum(holders.stays[wanted:]) < job.nodes:
            return f" Job #{holders.launch} is a launch and stays until it is stopped."
        if holders.kept_free:
            if job.known_s is None:
                return " How long it runs isn't known, so it can't go first."
            return " It would run too long to go first."
        if 0 < pool.most_free() < wanted:
            return f" At most {pool.most_free()} are free on one node."
        return ""

    def _of(self, pool: Pool) -> Holders:
        known = self._holders.get(id(pool))
        if known is None:
            known = self._holders[id(pool)] = _look(pool)
        return known

    def _impossible(self, job: Waiting, pool: Pool) -> str:
        wanted = job.resources
        fleet = self._pools.fleet
        found = pool.able[wanted.devices] if wanted.devices < len(pool.able) else 0
        if found:
            return f"Only {found} of the {job.nodes} nodes it wants can take {wanted.devices} {devices(wanted)} each."
        reasons = "; ".join(f"{node.name}: {refusal(node, wanted)}" for node in fleet[:3])
        more = f"; and {len(fleet) - 3} more" if len(fleet) > 3 else ""
        return f"No node can take {wanted.devices} {devices(wanted)} ({reasons}{more})."


def _ready(job: Waiting, pool: Pool) -> int:
    """How many nodes have the devices free, kept for nobody else."""
    free = (
        sum(device.free and device.kept_for in (None, job.job) for device in pool.devices[node.order])
        for node in pool.nodes
    )
    return sum(count >= job.resources.devices for count in free)


def _look(pool: Pool) -> Holders:
    jobs: set[int] = set()
    launches: set[int] = set()
    stays = [0] * len(pool.able)
    kept_free = False
    for node in pool.nodes:
        movable = 0
        for device in pool.devices[node.order]:
            kept_free = kept_free or (device.free and device.kept_for is not None)
            movable += device.until != NEVER
            for held in device.holds:
                jobs.add(held.job)
                if held.until_stopped and not held.stopping:
                    launches.add(held.job)
        stays[movable] += 1
    first = tuple(heapq.nsmallest(3, jobs))
    return Holders(first, len(jobs) - len(first), min(launches, default=None), tuple(stays), kept_free)


def refusal(node: FleetNode, wanted: Resources) -> str | None:
    """Why the node can't ever take the request as things stand; None when it only has to become free."""
    if wanted.node and node.name != wanted.node:
        return f"the job asks for node {wanted.node}"
    missing = [f"{key}={value}" for key, value in wanted.labels.items() if node.labels.get(key) != value]
    if missing:
        return f"it has no label {', '.join(missing)}"
    if not node.online:
        return "it is offline"
    if node.draining:
        return "it is draining"
    if node.closed:
        return node.closed
    floor = wanted.min_memory_gib * GIB
    kinds = [d for d in node.devices if wanted.device_kind in ("any", d.kind) and d.memory_bytes >= floor]
    if len(kinds) < wanted.devices:
        return f"it has {len(kinds)} of the {wanted.devices} {devices(wanted)}"
    return None


def devices(wanted: Resources) -> str:
    """The devices of a request, in words."""
    noun = "device" if wanted.device_kind == "any" else f"{wanted.device_kind} device"
    size = f" with at least {wanted.min_memory_gib:g} GiB" if wanted.min_memory_gib else ""
    return f"{noun}{'s' if wanted.devices != 1 else ''}{size}"
