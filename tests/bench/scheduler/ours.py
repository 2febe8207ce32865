"""The scheduler of portal.jobs in the simulator, and the time each of its decisions takes."""

import time
from collections.abc import Mapping, Sequence

from portal.jobs.scheduler import GIB, FleetNode, FreeDevice, Held, Placement, Policy, Waiting, decide
from portal.jobs.scheduler.share import accrue
from tests.bench.scheduler.mix import Job
from tests.bench.scheduler.simulator import Fleet, Start, is_rare
from workers.contract.resources import Resources


class Ours:
    """A policy of the simulator. `times`: (seconds by the clock, seconds of this process, jobs queued) of each tick."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.times: list[tuple[float, float, int]] = []
        self._asks = {
            (devices, rare): Resources(
                device_kind="cuda", devices=devices, labels={"gpu": "rare"} if rare else {}, min_memory_gib=40
            )
            for devices in (1, 2, 4, 8)
            for rare in (False, True)
        }
        self._waiting: dict[int, Waiting] = {}
        self._usage: Mapping[str, float] = {}
        self._holding: dict[str, float] = {}
        self._at = 0.0

    def __call__(self, now: float, queue: Sequence[Job], fleet: Fleet) -> list[Start]:
        """Decide once."""
        self._usage = accrue(self._usage, self._holding, now - self._at, self.policy.half_life_s)
        self._at = now
        jobs = {job.number: job for job in queue}
        waiting = [self._ask(job) for job in queue]
        nodes = _nodes(now, fleet)
        clock, cpu = time.perf_counter(), time.process_time()
        decisions = decide(waiting, nodes, self.policy, self._usage, now)
        self.times.append((time.perf_counter() - clock, time.process_time() - cpu, len(queue)))
        starts: list[Start] = []
        for decision in decisions:
            if isinstance(decision, Placement):
                parts = [(node, [device % fleet.width for device in devices]) for node, devices in decision.parts]
                starts.append((jobs[decision.job], parts))
        self._holding = {}
        for job in [job for job, _, _ in fleet.running.values()] + [job for job, _ in starts]:
            self._holding[job.team] = self._holding.get(job.team, 0) + job.devices * job.nodes
        return starts

    def _ask(self, job: Job) -> Waiting:
        known = self._waiting.get(job.number)
        if known is None:
            resources = self._asks[job.devices, job.rare]
            known = self._waiting[job.number] = Waiting(
                job.number, resources, job.nodes, "finetune", job.team, queued_at=job.queued_at, duration_s=job.said
            )
        return known


def _nodes(now: float, fleet: Fleet) -> list[FleetNode]:
    holds = {}
    for number, (job, _, _) in fleet.running.items():
        end = fleet.said_end(job)
        holds[number] = (Held(number, None if end == float("inf") else end - now, kind="finetune"),)
    return [
        FleetNode(
            node,
            f"node-{node:04}",
            True,
            False,
            {"gpu": "rare" if is_rare(node) else "common"},
            tuple(
                FreeDevice(node * fleet.width + at, "cuda", at, 80 * GIB, holds=holds[job.number] if job else ())
                for at, job in enumerate(row)
            ),
        )
        for node, row in enumerate(fleet.holders)
    ]
