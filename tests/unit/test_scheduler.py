"""Who starts where, and what the others are told."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from portal.jobs.scheduler import GIB, FleetNode, FreeDevice, Placement, Wait, Waiting, decide
from workers.contract.resources import Resources


def node(number: int, devices: int = 1, **changes: object) -> FleetNode:
    made = tuple(FreeDevice(number * 100 + i, "cuda", i, 40 * GIB) for i in range(devices))
    return replace(FleetNode(number, f"n{number}", True, False, {}, made), **changes)  # type: ignore[arg-type]


def held(free: FleetNode, job: int, **changes: object) -> FleetNode:
    return replace(free, devices=tuple(replace(d, holder=job, **changes) for d in free.devices))  # type: ignore[arg-type]


def wants(job: int, **resources: object) -> Waiting:
    return Waiting(job, Resources.model_validate(resources))


def test_a_job_starts_on_a_free_device_and_the_next_one_waits_for_it() -> None:
    first, second = decide([wants(7), wants(8)], [node(1)])
    assert first == Placement(7, 1, (100,))
    assert isinstance(second, Wait)
    assert second.position == 1
    assert "held by job #7" in second.reason


def test_the_tightest_node_is_taken() -> None:
    (placed,) = decide([wants(1)], [node(1, 4), node(2, 1)])
    assert isinstance(placed, Placement)
    assert placed.node == 2


def test_a_small_job_does_not_pass_a_large_one_that_waits_for_the_same_devices() -> None:
    half = node(1, 2)
    busy = replace(half, devices=(replace(half.devices[0], holder=3), half.devices[1]))
    large, small = decide([wants(4, devices=2), wants(5)], [busy])
    assert isinstance(large, Wait)
    assert isinstance(small, Wait)
    assert "behind" in small.reason or "earlier" in small.reason


def test_a_job_that_nothing_can_take_holds_up_nobody_and_says_why() -> None:
    large, small = decide([wants(4, devices=8), wants(5)], [node(1, 2)])
    assert isinstance(large, Wait)
    assert "2 of the 8" in large.reason
    assert small == Placement(5, 1, (100,))


def test_offline_draining_labels_and_memory_are_named() -> None:
    fleet = [node(1, online=False), node(2, draining=True), node(3)]
    (waits,) = decide([wants(1, labels={"zone": "a"})], fleet)
    assert isinstance(waits, Wait)
    assert "zone=a" in waits.reason
    (waits,) = decide([wants(1)], fleet[:2])
    assert isinstance(waits, Wait)
    assert "offline" in waits.reason
    assert "draining" in waits.reason
    (waits,) = decide([wants(1, min_memory_gib=80)], [node(3)])
    assert isinstance(waits, Wait)
    assert "80 GiB" in waits.reason


def test_the_wait_ends_when_the_holder_is_expected_to() -> None:
    (waits,) = decide([wants(9)], [held(node(1), 3, free_in_s=60.0), held(node(2), 4, free_in_s=20.0)])
    assert isinstance(waits, Wait)
    assert waits.expected_in_s == 20.0


def test_a_launch_that_holds_the_device_is_called_one_that_must_be_stopped() -> None:
    (waits,) = decide([wants(9)], [held(node(1), 3, until_stopped=True)])
    assert isinstance(waits, Wait)
    assert waits.expected_in_s is None
    assert "until it is stopped" in waits.reason


def test_no_node_at_all() -> None:
    (waits,) = decide([wants(1)], [])
    assert isinstance(waits, Wait)
    assert "start a worker" in waits.reason


@given(
    st.lists(st.integers(1, 4), max_size=8),
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), max_size=5),
)
def test_no_device_is_given_twice_and_every_job_gets_one_decision(
    queue: list[int], nodes: list[tuple[int, bool, bool]]
) -> None:
    fleet = [node(n, size, online=on, draining=dr) for n, (size, on, dr) in enumerate(nodes, 1)]
    decisions = decide([wants(job, devices=size) for job, size in enumerate(queue, 1)], fleet)
    assert [decision.job for decision in decisions] == list(range(1, len(queue) + 1))
    given_out = [device for d in decisions if isinstance(d, Placement) for device in d.devices]
    assert len(given_out) == len(set(given_out))
    allowed = {device.id for n in fleet if n.online and not n.draining for device in n.devices}
    assert set(given_out) <= allowed
    positions = [d.position for d in decisions if isinstance(d, Wait)]
    assert positions == list(range(1, len(positions) + 1))
