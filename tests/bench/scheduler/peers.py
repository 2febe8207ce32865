"""FIFO and plain EASY backfill, written for the simulator alone: what the scheduler is compared with.

Both go strictly by arrival and know no teams. FIFO stops at the first job that doesn't fit. EASY (Lifka, JSSPP 1995)
keeps the earliest start for that one and lets later ones go first on other devices, or if they say they are over by
then. Both take the tightest fit.
"""

from collections.abc import Sequence

from tests.bench.scheduler.mix import Job
from tests.bench.scheduler.simulator import Fleet, Start, is_rare


class Free:
    """Free devices of each node; the tightest node that fits is found by counts."""

    def __init__(self, fleet: Fleet) -> None:
        self.devices = [[at for at, job in enumerate(row) if job is None] for row in fleet.holders]
        self._by_count: dict[tuple[bool, int], set[int]] = {}
        for node, free in enumerate(self.devices):
            self._by_count.setdefault((is_rare(node), len(free)), set()).add(node)
        self._width = fleet.width

    def find(self, job: Job) -> list[int] | None:
        """Nodes for the job, the tightest first."""
        found: list[int] = []
        for count in range(job.devices, self._width + 1):
            for rare in (True,) if job.rare else (False, True):
                found += sorted(self._by_count.get((rare, count), ()))[: job.nodes - len(found)]
                if len(found) == job.nodes:
                    return found
        return None

    def take(self, job: Job, nodes: Sequence[int]) -> Start:
        """The first free devices of each."""
        parts = []
        for node in nodes:
            free = self.devices[node]
            parts.append((node, free[: job.devices]))
            self.drop(node, free[: job.devices])
        return job, parts

    def drop(self, node: int, devices: Sequence[int]) -> None:
        """These are no longer free."""
        before = self.devices[node]
        after = [device for device in before if device not in devices]
        self._by_count[is_rare(node), len(before)].discard(node)
        self._by_count.setdefault((is_rare(node), len(after)), set()).add(node)
        self.devices[node] = after


def fifo(now: float, queue: Sequence[Job], fleet: Fleet) -> list[Start]:
    """In order, up to the first that doesn't fit."""
    free, starts = Free(fleet), []
    for job in queue:
        nodes = free.find(job)
        if nodes is None:
            break
        starts.append(free.take(job, nodes))
    return starts


def easy(now: float, queue: Sequence[Job], fleet: Fleet) -> list[Start]:
    """FIFO, then whatever doesn't delay the first that doesn't fit."""
    starts = fifo(now, queue, fleet)
    if len(starts) == len(queue):
        return starts
    free = Free(fleet)
    ends = {(node, device): _end(now, job) for job, parts in starts for node, devices in parts for device in devices}
    for _, parts in starts:
        for node, devices in parts:
            free.drop(node, devices)
    head, later = queue[len(starts)], queue[len(starts) + 1 :]
    shadow, kept = _reserve(now, head, fleet, ends)
    whole = {node: list(free.devices[node]) for node in kept}
    for node, devices in kept.items():
        free.drop(node, devices)
    misses: set[tuple[int, int, bool]] = set()
    for job in later:
        shape = (job.devices, job.nodes, job.rare)
        if shape not in misses:
            nodes = free.find(job)
            if nodes is not None:
                start = free.take(job, nodes)
                starts.append(start)
                for node, devices in start[1]:
                    if node in whole:
                        whole[node] = [device for device in whole[node] if device not in devices]
                continue
            misses.add(shape)
        if job.nodes == 1 and job.said is not None and now + job.said <= shadow:
            for node, devices in whole.items():
                if len(devices) >= job.devices and (is_rare(node) or not job.rare):
                    taken = devices[: job.devices]
                    starts.append((job, [(node, taken)]))
                    whole[node] = devices[job.devices :]
                    free.drop(node, taken)
                    break
    return starts


def _end(now: float, job: Job) -> float:
    return float("inf") if job.said is None else now + job.said


def _reserve(
    now: float, head: Job, fleet: Fleet, ends: dict[tuple[int, int], float]
) -> tuple[float, dict[int, list[int]]]:
    """When the head starts at the latest, and the devices of each node it then takes."""
    choices = []
    for node, row in enumerate(fleet.holders):
        if is_rare(node) or not head.rare:
            times = []
            for device, holder in enumerate(row):
                end = now if holder is None else max(fleet.said_end(holder), now)
                times.append((ends.get((node, device), end), device))
            times.sort()
            busy = sum(end > now for end, _ in times[: head.devices])
            choices.append((times[head.devices - 1][0], busy, node, [d for _, d in times[: head.devices]]))
    choices.sort()
    chosen = choices[: head.nodes]
    return chosen[-1][0], {node: devices for _, _, node, devices in chosen}
