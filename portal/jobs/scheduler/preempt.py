"""Which running jobs are stopped at a checkpoint so that a waiting one of higher priority can start.

Only where the policy and the running job allow it, and only if the waiting job has the higher priority by itself and
would stand above the other one if that were back in the queue: time spent running doesn't age a job, so what was
stopped doesn't come back before the job it was stopped for. Knows nothing of checkpoints.
"""

from collections.abc import Callable

from portal.jobs.scheduler.backfill import Parts, Reservation
from portal.jobs.scheduler.decisions import Preempt
from portal.jobs.scheduler.devices import DeviceState, NodeState
from portal.jobs.scheduler.pools import Pool, Pools
from portal.jobs.scheduler.queue import Waiting

Points = Callable[[Waiting], float]
"""A job's effective priority now."""


class Room:
    """Makes room for waiting jobs, in their order."""

    def __init__(self, pools: Pools, points: Points) -> None:
        self._pools = pools
        self._points = points
        self._stops: set[int] = set()
        """Jobs on their way out, told before or by this decision."""
        self._standing: dict[int, tuple[int, float]] = {}
        """Job that may be preempted → its priority and its effective priority if it were in the queue."""
        self._nodes: dict[int, NodeState] = {}
        self._refused: dict[tuple[int, int, int], tuple[int, float]] = {}
        for node in pools.nodes:
            for device in node.devices:
                for held in device.holds:
                    if held.stopping:
                        self._stops.add(held.job)
                        self._nodes[node.order] = node
                    elif held.if_stopped is not None:
                        self._nodes[node.order] = node
                        if held.job not in self._standing:
                            self._standing[held.job] = (held.if_stopped.priority, points(held.if_stopped))
        self._lowest = min((priority for priority, _ in self._standing.values()), default=None)

    def make(self, job: Waiting, pool: Pool) -> tuple[list[Preempt], Reservation] | None:
        """Who must stop, and the devices that are then kept for the job; None if that can't make room for it.

        Nobody must stop if enough is being freed already.
        """
        if not self._stops and (self._lowest is None or self._lowest >= job.priority):
            return None
        points = self._points(job) - self._pools.policy.preempt_points
        shape = (id(pool), job.resources.devices, job.nodes)
        tried = self._refused.get(shape)
        if tried is not None and job.priority <= tried[0] and points <= tried[1]:
            return None
        choices = []
        for node in self._nodes.values() if job.nodes == 1 else pool.nodes:
            if node.order in pool.devices and (choice := self._on(node, job, pool, points)):
                choices.append(choice)
        if len(choices) < job.nodes:
            self._refused[shape] = (job.priority, points)
            return None
        choices.sort(key=lambda choice: choice[0])
        chosen = choices[: job.nodes]
        victims = sorted({number for _, numbers, _ in chosen for number in numbers})
        if victims:
            self._stops.update(victims)
            self._refused.clear()  # what a victim holds elsewhere is on its way too
        parts: Parts = [part for _, _, part in chosen]
        words = f"Job #{job.job}, of priority {job.priority}, needs its devices."
        return [Preempt(number, job.job, words) for number in victims], Reservation(
            job.job, self._start_s(parts), parts
        )

    def _on(
        self, node: NodeState, job: Waiting, pool: Pool, points: float
    ) -> tuple[tuple[float, int, int], set[int], tuple[NodeState, list[DeviceState]]] | None:
        """The cheapest devices of the node: the least priority stopped, then the fewest jobs."""
        usable = []
        for at, device in enumerate(pool.devices[node.order]):
            if device.kept_for is not None:
                continue
            victims = {held.job for held in device.holds} - self._stops
            standing = [self._standing.get(number) for number in victims]
            if all(s is not None and s[0] < job.priority and s[1] < points for s in standing):
                highest = max((s[1] for s in standing if s is not None), default=float("-inf"))
                usable.append((highest, len(victims), at, victims, device))
        if len(usable) < job.resources.devices:
            return None
        usable.sort(key=lambda entry: entry[:3])
        chosen = usable[: job.resources.devices]
        stopped = set().union(*(victims for *_, victims, _ in chosen))
        return (chosen[-1][0], len(stopped), node.order), stopped, (node, [device for *_, device in chosen])

    def _start_s(self, parts: Parts) -> float:
        held = [device for _, devices in parts for device in devices if not device.free]
        return max((min(device.until, self._pools.policy.stop_s) for device in held), default=0.0)
