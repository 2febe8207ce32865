"""Whole runs on a simulated clock: nobody who is next is delayed, and nobody waits for ever."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from portal.jobs.scheduler import FleetNode, Held, Policy, Wait, Waiting, decide
from portal.jobs.scheduler.order import overtaking_s
from tests.unit.scheduler_fleet import HOUR, node, placed, waits, wants

PLAIN = Policy(fair_share_points=0)


class Clock:
    """Jobs that run for just as long as they say, `hidden` ones without saying so. One decision a tick."""

    def __init__(self, fleet: list[FleetNode], policy: Policy) -> None:
        self.fleet = fleet
        self.policy = policy
        self.now = 0.0
        self.queue: dict[int, Waiting] = {}
        self.runs: dict[int, tuple[float, frozenset[int], bool]] = {}
        """Job → when it ends, its devices, whether that is known."""
        self.started: dict[int, float] = {}

    def submit(self, job: Waiting) -> None:
        self.queue[job.job] = job

    def tick(self, hidden: Callable[[int], bool] = lambda job: False) -> list[Wait]:
        """Decide and start; the jobs that wait, in order."""
        self.runs = {job: run for job, run in self.runs.items() if run[0] > self.now}
        fleet = []
        for each in self.fleet:
            devices = []
            for device in each.devices:
                on = [(job, run) for job, run in self.runs.items() if device.id in run[1]]
                assert len(on) <= 1, "a device is given to one job"
                holds = tuple(Held(job, run[0] - self.now if run[2] else None) for job, run in on)
                devices.append(replace(device, holds=holds))
            fleet.append(replace(each, devices=tuple(devices)))
        shown = [replace(job, duration_s=None) if hidden(job.job) else job for job in self.queue.values()]
        decisions = decide(shown, fleet, self.policy, None, self.now)
        for number, placement in placed(decisions).items():
            job = self.queue.pop(number)
            ids = frozenset(device for _, devices in placement.parts for device in devices)
            assert len(ids) == job.nodes * job.resources.devices
            self.runs[number] = (self.now + (job.duration_s or 0), ids, not hidden(number))
            self.started[number] = self.now
        return list(waits(decisions).values())

    def next_end(self) -> float:
        return min((run[0] for run in self.runs.values()), default=self.now + 1)


shapes = st.tuples(st.integers(1, 4), st.sampled_from((1, 1, 1, 2)), st.integers(1, 300))


def _jobs(shapes_: Iterable[tuple[int, int, int]], queued_at: float = 0.0, first: int = 1) -> list[Waiting]:
    return [
        wants(number, devices, nodes=nodes, duration_s=seconds, queued_at=queued_at)
        for number, (devices, nodes, seconds) in enumerate(shapes_, first)
    ]


sizes_of_nodes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(sizes_of_nodes, st.lists(shapes, min_size=1, max_size=25), st.integers(1, 3))
@settings(deadline=None)
def test_the_start_promised_to_the_next_job_is_never_put_off(
    sizes: list[int], asked: list[tuple[int, int, int]], reservations: int
) -> None:
    """Each tick tells the first job a time; later ticks only bring it forward, and then it starts."""
    clock = Clock([node(n, size) for n, size in enumerate(sizes, 1)], replace(PLAIN, reservations=reservations))
    for number, job in enumerate(_jobs(asked)):
        clock.submit(replace(job, queued_at=-float(len(asked) - number)))
    promised: dict[int, float] = {}
    for _ in range(10 * len(asked)):
        first = next(iter(clock.tick()), None)
        for job, started in clock.started.items():
            assert started <= promised.get(job, started)
        if first is None:
            break
        if first.expected_in_s is not None:
            at = clock.now + first.expected_in_s
            assert at <= promised.get(first.job, at) + 1e-6
            promised[first.job] = at
        elif clock.runs:
            assert first.reason.startswith(("No node", "Only")), "every end is known"
        clock.now = clock.next_end()
    possible = {
        job for job, (devices, nodes, _) in enumerate(asked, 1) if sum(size >= devices for size in sizes) >= nodes
    }
    assert clock.started.keys() == possible


@given(
    st.integers(1, 3),
    st.integers(2, 4),
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=10),
    st.booleans(),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_no_stream_of_higher_priority_starves_a_job(
    nodes: int, size: int, higher: int, stream: list[tuple[int, int]], crowded: bool, unknown: bool
) -> None:
    """A job that wants every device of the fleet, and others of higher priority that come as fast as they can be run.

    From overtaking_s on nobody new goes before it; those that still do start one after the other, each after at most
    the longest run; then it starts.
    """
    policy = Policy(points_per_hour=10, fair_share_points=5)
    clock = Clock([node(n, size) for n in range(1, nodes + 1)], policy)
    clock.submit(wants(1, size, nodes=nodes, duration_s=HOUR, queued_at=0.0))
    bound = overtaking_s(policy, higher)
    longest = HOUR * max([1, *(hours for _, hours in stream)])
    number, ahead = 1, 0
    deadline = float("inf")
    while 1 not in clock.started:
        assert clock.now <= deadline, "starved"
        waiting = sum(job.resources.devices * job.nodes for job in clock.queue.values() if job.job != 1)
        while waiting < nodes * size * (2 if crowded else 1):
            devices, hours = stream[number % len(stream)]
            number += 1
            clock.submit(
                wants(number, min(devices, size), priority=higher, duration_s=hours * HOUR, queued_at=clock.now)
            )
            waiting += min(devices, size)
        order = [wait.job for wait in clock.tick(hidden=lambda job: unknown and job % 2 == 0)]
        if clock.now >= bound and deadline == float("inf") and 1 in order:
            ahead = order.index(1)
            deadline = clock.now + (ahead + 1) * longest
        clock.now = clock.next_end()
