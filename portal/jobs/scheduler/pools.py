"""The devices that can answer one kind of request, indexed so that 10,000 waiting jobs don't each look at all of them.

Nodes that no request in the queue can tell apart form a group; requests that the same devices of the same groups answer
share a pool. Knows nothing of the order of the queue.
"""

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence

from portal.jobs.scheduler.devices import DeviceState, NodeState
from portal.jobs.scheduler.fleet import GIB, FleetNode
from portal.jobs.scheduler.policy import Policy
from portal.jobs.scheduler.queue import Waiting
from workers.contract.resources import Resources


class Group:
    """Nodes alike to every waiting job: the same values of the labels that matter, the same classes of devices.

    `wanted`: how many kinds of request in the queue they can answer.
    """

    __slots__ = ("classes", "labels", "nodes", "number", "wanted")

    def __init__(self, number: int, labels: Mapping[str, str], classes: Sequence[tuple[str, int]]) -> None:
        self.number = number
        self.labels = labels
        self.classes = classes
        self.nodes: list[NodeState] = []
        self.wanted = 0


class Pool:
    """The nodes and devices that can answer a request.

    `units`: what two pools have in common if they compete: classes of devices of groups, or the node they name.
    `free`: node → how many of its devices here are free and not kept. `able[k]`: how many nodes have at least k
    devices here, free or not; `fits[k]`: how many have just k free.
    """

    def __init__(
        self, groups: Iterable[tuple[Group, list[tuple[NodeState, list[DeviceState]]]]], units: Iterable[object]
    ) -> None:
        self.units = frozenset(units)
        self.nodes: list[NodeState] = []
        self.devices: dict[int, list[DeviceState]] = {}
        self.groups: list[tuple[Group, list[list[int]]]] = []
        self._rows: dict[int, list[list[int]]] = {}
        widest = 0
        members = list(groups)
        for _, nodes in members:
            widest = max([widest, *(len(devices) for _, devices in nodes)])
        self.able = [0] * (widest + 1)
        self.fits = [0] * (widest + 1)
        self.free: dict[int, int] = {}
        self._by_order: dict[int, NodeState] = {}
        self._rooms: list[tuple[int, int, int]] | None = None
        self.refused: dict[tuple[int, int], float] = {}
        """(devices, nodes) → the shortest duration for which no gap was found; gaps only shrink within a decision."""
        for group, nodes in members:
            rows: list[list[int]] = [[] for _ in range(widest + 1)]
            self.groups.append((group, rows))
            for node, devices in nodes:
                self.nodes.append(node)
                self.devices[node.order] = devices
                self._by_order[node.order] = node
                self._rows[node.order] = rows
                for width in range(len(devices) + 1):
                    self.able[width] += 1
                count = sum(device.free and device.kept_for is None for device in devices)
                self.free[node.order] = count
                self.fits[count] += 1
                rows[count].append(node.order)
            for row in rows:
                heapq.heapify(row)

    def possible(self, job: Waiting) -> bool:
        """Whether enough nodes have the devices, once those are free."""
        wanted = job.resources.devices
        return wanted < len(self.able) and self.able[wanted] >= job.nodes

    def ready(self, devices: int) -> int:
        """How many nodes have so many free."""
        return sum(self.fits[devices:])

    def most_free(self) -> int:
        """The most that are free on one node."""
        return max((count for count, nodes in enumerate(self.fits) if nodes), default=0)

    def best(self, job: Waiting) -> NodeState | None:
        """The node to start a job of one node on.

        Its preferred labels first; then nodes that the fewest kinds of request want, so that what is scarce stays free
        for those who need it; then the fewest devices left over, so that large gaps stay whole.
        """
        wanted = job.resources.devices
        found: tuple[int, int, int, int] | None = None
        for group, rows in self.groups:
            liked = preference(job, group.labels)
            for count in range(wanted, len(rows)):
                row = rows[count]
                while row and self.free[row[0]] != count:
                    heapq.heappop(row)
                if row:
                    key = (-liked, group.wanted, count - wanted, row[0])
                    if found is None or key < found:
                        found = key
                    break
        return None if found is None else self._by_order[found[3]]

    def several(self, job: Waiting, usable: Mapping[int, int] | None = None) -> list[NodeState] | None:
        """Nodes to start a job of several nodes on, alike if possible. `usable`: node → devices, where not `free`."""
        wanted = job.resources.devices
        choices: list[tuple[int, int, list[tuple[int, int]]]] = []
        for group, _ in self.groups:
            fits = []
            for node in group.nodes:
                count = self.free.get(node.order, 0)
                if usable is not None:
                    count = usable.get(node.order, count)
                if count >= wanted:
                    fits.append((count - wanted, node.order))
            fits.sort()
            choices.append((-preference(job, group.labels), group.wanted, fits))
        choices.sort(key=lambda choice: choice[:2])
        for *_, fits in choices:
            if len(fits) >= job.nodes:
                return [self._by_order[order] for _, order in fits[: job.nodes]]
        mixed = [fit for *_, fits in choices for fit in fits]
        return [self._by_order[order] for _, order in mixed[: job.nodes]] if len(mixed) >= job.nodes else None

    def room(self, planned_bytes: int, duration_s: float | None) -> tuple[NodeState, DeviceState] | None:
        """The shared device with the least room that is enough, kept for nobody beyond the job's end."""
        if self._rooms is None:
            self._rooms = sorted(
                (device.room, node.order, at)
                for node in self.nodes
                for at, device in enumerate(self.devices[node.order])
                if device.room >= 0
            )
        for at in range(bisect_left(self._rooms, (planned_bytes, -1, -1)), len(self._rooms)):
            room, order, place = self._rooms[at]
            device = self.devices[order][place]
            if device.room != room:
                continue  # it has changed since
            if device.kept_for is None or (duration_s is not None and duration_s <= device.kept_until):
                return self._by_order[order], device
        return None

    def recount(self, node: NodeState) -> None:
        """The node's devices have changed."""
        count, here = 0, self.devices[node.order]
        for device in here:
            count += device.free and device.kept_for is None
        before = self.free[node.order]
        if count != before:
            self.fits[before] -= 1
            self.fits[count] += 1
            self.free[node.order] = count
            heapq.heappush(self._rows[node.order][count], node.order)
        if self._rooms is not None:
            for at, device in enumerate(here):
                if device.room >= 0:
                    entry = (device.room, node.order, at)
                    where = bisect_left(self._rooms, entry)
                    if where == len(self._rooms) or self._rooms[where] != entry:
                        insort(self._rooms, entry)


class Pools:
    """Every pool of the queue, made when first asked for."""

    def __init__(self, fleet: Sequence[FleetNode], queue: Sequence[Waiting], policy: Policy) -> None:
        self.fleet = fleet
        self.policy = policy
        self._thresholds = sorted({job.resources.min_memory_gib for job in queue})
        keys = {key for job in queue for key in (*job.resources.labels, *job.preferred)}
        usable = sorted((n for n in fleet if n.takes_jobs), key=lambda n: (n.name, n.id))
        self.nodes = [NodeState(node, order, policy) for order, node in enumerate(usable)]
        self.kept: dict[int, NodeState] = {}
        """Nodes some device of which is kept for a waiting job."""
        groups: dict[tuple[object, ...], Group] = {}
        for state in self.nodes:
            labels = {key: value for key, value in state.node.labels.items() if key in keys}
            for device in state.devices:
                device.cls = (device.kind, bisect_right(self._thresholds, device.memory_bytes / GIB))
            classes = tuple(sorted({device.cls for device in state.devices}))
            key = (tuple(sorted(labels.items())), classes)
            group = groups.get(key)
            if group is None:
                group = groups[key] = Group(len(groups), labels, classes)
            group.nodes.append(state)
            state.group = group.number
        self._groups = list(groups.values())
        self._pools: dict[object, Pool] = {}
        self._by_request: dict[object, Pool] = {}
        self._by_resources: dict[int, Pool] = {}
        """By identity: the queue lives as long as this, and many jobs share what they ask for."""
        self._pools_of: list[list[Pool]] = [[] for _ in self.nodes]
        for job in queue:
            self.answering(job.resources)

    def answering(self, wanted: Resources) -> Pool:
        """The pool of a request; it may be empty."""
        known = self._by_resources.get(id(wanted))
        if known is not None:
            return known
        request = (wanted.device_kind, wanted.min_memory_gib, wanted.node, tuple(sorted(wanted.labels.items())))
        pool = self._by_request.get(request)
        if pool is None:
            pool = self._by_request[request] = self._make(wanted)
        self._by_resources[id(wanted)] = pool
        return pool

    def changed(self, node: NodeState) -> None:
        """Some device of the node was taken or kept."""
        for pool in self._pools_of[node.order]:
            pool.recount(node)

    def _make(self, wanted: Resources) -> Pool:
        answers: list[tuple[Group, tuple[tuple[str, int], ...]]] = []
        floor = bisect_right(self._thresholds, wanted.min_memory_gib)
        for group in self._groups:
            if all(group.labels.get(key) == value for key, value in wanted.labels.items()):
                fitting = (c for c in group.classes if wanted.device_kind in ("any", c[0]) and c[1] >= floor)
                if classes := tuple(fitting):
                    answers.append((group, classes))
        key = (tuple((group.number, classes) for group, classes in answers), wanted.node)
        if key not in self._pools:
            self._pools[key] = self._fill(answers, wanted.node)
            if wanted.node is None:
                for group, _ in answers:
                    group.wanted += 1
        return self._pools[key]

    def _fill(self, answers: list[tuple[Group, tuple[tuple[str, int], ...]]], name: str | None) -> Pool:
        members = []
        units: list[object] = []
        for group, classes in answers:
            nodes = [
                (state, [device for device in state.devices if device.cls in classes])
                for state in group.nodes
                if name is None or state.node.name == name
            ]
            members.append((group, nodes))
            units += [(group.number, cls) for cls in classes] if name is None else [s.order for s, _ in nodes]
        pool = Pool(members, units)
        for state in pool.nodes:
            self._pools_of[state.order].append(pool)
        return pool


def preference(job: Waiting, labels: Mapping[str, str]) -> int:
    """How many of the job's preferred labels the node carries."""
    return sum(labels.get(key) == value for key, value in job.preferred.items()) if job.preferred else 0
