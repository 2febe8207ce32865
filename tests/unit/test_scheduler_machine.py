"""Random submits, ends, drains, lost nodes and time: what must hold of every decision."""

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from portal.jobs.scheduler import GIB, FleetNode, FreeDevice, Held, Placement, Policy, Waiting, decide
from tests.unit.scheduler_fleet import placed, preempted, waits, wants

KINDS = ("cuda", "cpu")
SIZES = (16, 40, 80)


class Running:
    """A job on its devices, `parts` of (node, devices)."""

    def __init__(self, job: Waiting, placement: Placement, now: float) -> None:
        self.job = job
        self.parts = placement.parts
        self.waited_s = now - (job.queued_at or 0)
        self.started_at = now
        self.stopping = False

    def held(self, now: float) -> Held:
        seconds = None if self.job.known_s is None else self.started_at + self.job.known_s - now
        if_stopped = replace(self.job, queued_at=now - self.waited_s) if self.job.priority < 20 else None
        job = self.job
        return Held(job.job, seconds, job.until_stopped, job.kind, job.planned_bytes, self.stopping, if_stopped)


class Cluster(RuleBasedStateMachine):
    """A portal that carries out what is decided."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.queue: dict[int, Waiting] = {}
        self.running: dict[int, Running] = {}
        self.nodes: dict[int, FleetNode] = {}
        self.policy = Policy()

    @initialize(
        nodes=st.lists(
            st.tuples(st.integers(0, 4), st.sampled_from(KINDS), st.sampled_from(SIZES), st.sampled_from("abc")),
            min_size=1,
            max_size=5,
        ),
        packs=st.booleans(),
        preempts=st.booleans(),
        backfill=st.booleans(),
        reservations=st.integers(1, 3),
    )
    def start(self, nodes: list[tuple[int, str, int, str]], packs: bool, **more: Any) -> None:
        self.policy = Policy(packs=frozenset({"launch"} if packs else ()), **more)
        for number, (count, kind, size, zone) in enumerate(nodes, 1):
            devices = tuple(FreeDevice(number * 100 + i, kind, i, size * GIB) for i in range(count))
            self.nodes[number] = FleetNode(number, f"n{number}", True, False, {"zone": zone}, devices)

    @rule(
        devices=st.sampled_from((1, 1, 2, 4)),
        nodes=st.sampled_from((1, 1, 1, 2, 3)),
        kind=st.sampled_from(("finetune", "launch", "launch")),
        team=st.sampled_from(("red", "blue")),
        priority=st.sampled_from((0, 0, 5, 20)),
        duration_s=st.none() | st.integers(1, 500),
        planned=st.sampled_from((None, 3, 8, 11, 13, 30)),
        asks=st.fixed_dictionaries(
            {},
            optional={
                "device_kind": st.sampled_from(KINDS),
                "min_memory_gib": st.sampled_from((8, 40, 60)),
                "labels": st.sampled_from(({"zone": "a"}, {"zone": "b"})),
                "node": st.sampled_from(("n1", "n2")),
                "preferred": st.just({"zone": "c"}),
            },
        ),
    )
    def submit(self, devices: int, kind: str, planned: int | None, asks: dict[str, Any], **more: Any) -> None:
        self.number += 1
        self.queue[self.number] = wants(
            self.number,
            devices,
            kind=kind,
            queued_at=self.now,
            until_stopped=kind == "launch" and more["duration_s"] is None,
            planned_bytes=None if planned is None else planned * GIB,
            **more,
            **asks,
        )

    @rule(seconds=st.integers(1, 5000))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        del self.running[data.draw(st.sampled_from(sorted(self.running)))]

    @rule(data=st.data())
    def drain_or_undrain(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.nodes)))
        self.nodes[number] = replace(self.nodes[number], draining=not self.nodes[number].draining)

    @rule(data=st.data())
    def lose_or_find(self, data: st.DataObject) -> None:
        """A lost node's jobs are back in the queue, all their nodes with them."""
        number = data.draw(st.sampled_from(sorted(self.nodes)))
        self.nodes[number] = replace(self.nodes[number], online=not self.nodes[number].online)
        if not self.nodes[number].online:
            for job, run in list(self.running.items()):
                if any(node == number for node, _ in run.parts):
                    self._requeue(job)

    @precondition(lambda self: any(run.stopping for run in self.running.values()))
    @rule()
    def stopped(self) -> None:
        for job, run in list(self.running.items()):
            if run.stopping:
                self._requeue(job)

    @rule(usage=st.fixed_dictionaries({}, optional={"red": st.floats(0, 1e6), "green": st.floats(0, 1e6)}))
    def tick(self, usage: dict[str, float]) -> None:
        queue, fleet = list(self.queue.values()), self._fleet()
        decisions = decide(queue, fleet, self.policy, usage, self.now)
        assert decisions == decide(queue[::-1], fleet, self.policy, usage, self.now)
        starts, stays, stops = placed(decisions), waits(decisions), preempted(decisions)
        assert starts.keys() | stays.keys() == self.queue.keys()
        assert len(decisions) == len(starts) + len(stays) + len(stops)
        assert [wait.position for wait in stays.values()] == list(range(1, len(stays) + 1))
        for wait in stays.values():
            assert wait.reason.endswith((".", ")."))
            assert wait.expected_in_s is None or wait.expected_in_s >= 0
        for job, placement in starts.items():
            self._check(self.queue[job], placement)
            self.running[job] = Running(self.queue.pop(job), placement, self.now)
        for job, for_job in stops.items():
            assert self.policy.preempts
            assert not self.running[job].stopping
            assert self.running[job].job.priority < self.queue[for_job].priority
            self.running[job].stopping = True
        if stays:
            self._nothing_is_left_for(self.queue[next(iter(stays))])

    @invariant()
    def no_device_is_given_twice(self) -> None:
        for node in self._fleet():
            for device in node.devices:
                if len(device.holds) > 1:
                    assert all(held.kind in self.policy.packs and held.planned_bytes for held in device.holds)
                    assert device.held_bytes <= self.policy.pack_share * device.memory_bytes

    def _requeue(self, job: int) -> None:
        run = self.running.pop(job)
        self.queue[job] = replace(run.job, queued_at=self.now - run.waited_s)

    def _fleet(self) -> list[FleetNode]:
        holds: dict[int, list[Held]] = {}
        for run in self.running.values():
            for _, devices in run.parts:
                for device in devices:
                    holds.setdefault(device, []).append(run.held(self.now))
        return [
            replace(node, devices=tuple(replace(d, holds=tuple(holds.get(d.id, ()))) for d in node.devices))
            for node in self.nodes.values()
        ]

    def _check(self, job: Waiting, placement: Placement) -> None:
        """The right nodes, all of them, and only devices that are there and like it wants them."""
        assert len({node for node, _ in placement.parts}) == len(placement.parts) == job.nodes
        for number, devices in placement.parts:
            node = self.nodes[number]
            assert len(set(devices)) == len(devices) == job.resources.devices
            assert self._may(job, node)
            for device in node.devices:
                if device.id in devices:
                    assert self._fits(job, device)
            assert set(devices) <= {device.id for device in node.devices}

    def _may(self, job: Waiting, node: FleetNode) -> bool:
        wanted = job.resources
        return (
            node.online
            and not node.draining
            and wanted.node in (None, node.name)
            and all(node.labels.get(key) == value for key, value in wanted.labels.items())
        )

    def _fits(self, job: Waiting, device: FreeDevice) -> bool:
        wanted = job.resources
        return wanted.device_kind in ("any", device.kind) and device.memory_bytes >= wanted.min_memory_gib * GIB

    def _nothing_is_left_for(self, first: Waiting) -> None:
        """The job that is first in the queue would have started if there were room for it."""
        room = 0
        for node in self._fleet():
            free = [device for device in node.devices if self._fits(first, device) and not device.holds]
            room += self._may(first, node) and len(free) >= first.resources.devices
        assert room < first.nodes


Cluster.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestCluster = Cluster.TestCase
