"""When each waiting job is expected to start: everybody ends when expected, and they start in order.

List scheduling (Graham, SIAM J. Appl. Math. 17(2), 1969) over the devices as the decision leaves them. Gaps before a
later start aren't filled, so a small job may start earlier than it is told. Knows nothing of why a job waits.
"""

import heapq
from operator import attrgetter

from portal.jobs.scheduler.backfill import Reservation, then
from portal.jobs.scheduler.devices import UNKNOWN, DeviceState, NodeState
from portal.jobs.scheduler.pools import Pool, Pools
from portal.jobs.scheduler.queue import Waiting

Entry = tuple[float, int, int, int]
"""Seconds until enough of a node's devices are free, how many of those are busy now, the node, the node's version."""


_booked = attrgetter("booked")


class Timetable:
    """The devices' times to come. Ask for one waiting job after another, in order."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._version = [0] * len(pools.nodes)
        self._heaps: dict[tuple[int, int], list[Entry]] = {}
        """Pool and devices wanted → its nodes, soonest first. Times only grow, so an old entry comes early."""
        self._never: set[tuple[int, int, int]] = set()
        self._last: dict[object, float] = {}
        """Group and class → when the last job asked for starts there; read where no job may pass another one."""
        for node in pools.nodes:
            for device in node.devices:
                device.booked = device.until

    def expected_s(self, job: Waiting, pool: Pool, reservation: Reservation | None) -> float | None:
        """Seconds until the job is expected to start, None when nothing is known."""
        start_s = self._start_s(job, pool, reservation)
        if not self._pools.policy.backfill:
            start_s = max([start_s, *(self._last.get(unit, 0.0) for unit in pool.units)])
            self._last.update(dict.fromkeys(pool.units, start_s))
        return start_s if start_s < UNKNOWN else None

    def _start_s(self, job: Waiting, pool: Pool, reservation: Reservation | None) -> float:
        if reservation is not None:
            for node, devices in reservation.parts:
                self._book(job, reservation.start_s, node, devices)
            return reservation.start_s
        wanted = job.resources.devices
        shape = (id(pool), wanted, job.nodes)
        if shape in self._never:
            return UNKNOWN
        soonest = self._soonest(pool, wanted, job.nodes)
        if len(soonest) < job.nodes or soonest[-1][0] >= UNKNOWN:
            self._never.add(shape)
            return UNKNOWN
        start_s = soonest[-1][0]
        for _, _, order, _ in soonest:
            here = sorted(pool.devices[order], key=_booked)
            self._book(job, start_s, self._pools.nodes[order], here[:wanted])
        return start_s

    def _book(self, job: Waiting, start_s: float, node: NodeState, devices: list[DeviceState]) -> None:
        over = then(start_s, job)
        for device in devices:
            if device.booked < over:
                device.booked = over
        self._version[node.order] += 1

    def _entry(self, pool: Pool, order: int, wanted: int) -> Entry:
        times = sorted([device.booked for device in pool.devices[order]])[:wanted]
        return times[-1], wanted - times.count(0.0), order, self._version[order]

    def _soonest(self, pool: Pool, wanted: int, nodes: int) -> list[Entry]:
        """The first nodes with so many devices. They stay in the heap."""
        heap = self._heaps.get((id(pool), wanted))
        if heap is None:
            able = [node.order for node in pool.nodes if len(pool.devices[node.order]) >= wanted]
            heap = self._heaps[id(pool), wanted] = [self._entry(pool, order, wanted) for order in able]
            heapq.heapify(heap)
        found: list[Entry] = []
        while heap and len(found) < nodes:
            _, _, order, version = heap[0]
            if version != self._version[order]:
                heapq.heapreplace(heap, self._entry(pool, order, wanted))
            else:
                found.append(heapq.heappop(heap))
        for entry in found:
            heapq.heappush(heap, entry)
        return found
