"""A fleet on a simulated clock: jobs arrive, run for as long as they do, and end; a policy is asked at every tick."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.bench.scheduler.mix import RARE, Job

Start = tuple[Job, Sequence[tuple[int, Sequence[int]]]]
"""A job, and the devices of each node it starts on."""


@dataclass
class Fleet:
    """`holders[node][device]` is the job there, None when free; `running` has when each job started and where."""

    nodes: int
    width: int
    holders: list[list[Job | None]] = field(init=False)
    running: dict[int, tuple[Job, float, Sequence[tuple[int, Sequence[int]]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.holders = [[None] * self.width for _ in range(self.nodes)]

    def said_end(self, job: Job) -> float:
        """When the job says it ends; infinite when it doesn't say."""
        return float("inf") if job.said is None else self.running[job.number][1] + job.said


def is_rare(node: int) -> bool:
    """Whether the node is of the rarer kind."""
    return node % RARE == 0


Policy = Callable[[float, Sequence[Job], Fleet], list[Start]]
"""(now, the queue in order of arrival, the fleet) → what starts now."""


@dataclass
class Outcome:
    """What came of a run of `seconds`. `started`: job → when. `busy`: team → device-seconds it got."""

    jobs: Sequence[Job]
    seconds: float
    devices: int
    started: dict[int, float] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    longest_queue: int = 0


def simulate(jobs: Sequence[Job], nodes: int, width: int, seconds: float, tick: float, policy: Policy) -> Outcome:
    """Run it. Raises AssertionError when the policy starts a job where it can't."""
    fleet = Fleet(nodes, width)
    outcome = Outcome(jobs, seconds, nodes * width)
    ends: list[tuple[float, int]] = []
    queue: dict[int, Job] = {}
    arrived, now = 0, 0.0
    while now < seconds:
        while ends and ends[0][0] <= now:
            job, _, parts = fleet.running.pop(heapq.heappop(ends)[1])
            for node, devices in parts:
                for device in devices:
                    fleet.holders[node][device] = None
        while arrived < len(jobs) and jobs[arrived].queued_at <= now:
            queue[jobs[arrived].number] = jobs[arrived]
            arrived += 1
        outcome.longest_queue = max(outcome.longest_queue, len(queue))
        for job, parts in policy(now, list(queue.values()), fleet):
            _check(job, parts, fleet)
            del queue[job.number]
            for node, devices in parts:
                for device in devices:
                    fleet.holders[node][device] = job
            fleet.running[job.number] = (job, now, parts)
            outcome.started[job.number] = now
            heapq.heappush(ends, (now + job.seconds, job.number))
            got = job.devices * job.nodes * (min(now + job.seconds, seconds) - now)
            outcome.busy[job.team] = outcome.busy.get(job.team, 0.0) + got
        now += tick
    return outcome


def _check(job: Job, parts: Sequence[tuple[int, Sequence[int]]], fleet: Fleet) -> None:
    assert len({node for node, _ in parts}) == job.nodes, "all of its nodes or none"
    for node, devices in parts:
        assert len(set(devices)) == job.devices, "as many devices as it asks for"
        assert all(fleet.holders[node][device] is None for device in devices), "free ones"
        assert is_rare(node) or not job.rare, "of the kind it asks for"
