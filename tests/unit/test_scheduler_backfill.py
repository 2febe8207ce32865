"""What is kept for the job that is next, and who may start before it."""

from dataclasses import replace

import pytest

from portal.jobs.scheduler import GIB, FreeDevice, Held, Policy, decide
from tests.unit.scheduler_fleet import held, node, placed, waits, wants


def test_a_job_that_is_over_in_time_goes_first_and_one_that_is_not_waits() -> None:
    fleet = [held(node(1, 2), Held(3, free_in_s=100), None)]
    decisions = decide([wants(4, 2), wants(5, duration_s=100), wants(6, duration_s=50)], fleet)
    assert set(placed(decisions)) == {5}
    assert waits(decisions)[4].expected_in_s == 100
    decisions = decide([wants(4, 2), wants(5, duration_s=101), wants(6)], fleet)
    assert not placed(decisions)
    assert "too long to go first" in waits(decisions)[5].reason
    assert "isn't known" in waits(decisions)[6].reason
    assert "n1 is kept for it" in waits(decisions)[4].reason


def test_other_devices_stay_open_to_jobs_of_unknown_duration() -> None:
    fleet = [held(node(1, 2), Held(3, free_in_s=100), None), held(node(2, 2), Held(9, free_in_s=900), None)]
    decisions = decide([wants(4, 2), wants(5), wants(6)], fleet)
    assert placed(decisions)[5].node == 2
    assert 6 in waits(decisions)


def test_nobody_goes_first_where_the_start_is_unknown() -> None:
    fleet = [held(node(1, 2), 3, None)]
    decisions = decide([wants(4, 2), wants(5, duration_s=0)], fleet)
    assert not placed(decisions)
    assert waits(decisions)[4].expected_in_s is None


def test_the_earliest_node_is_kept_whatever_its_name() -> None:
    soon = held(node(2, 2), Held(4, free_in_s=30), Held(5, free_in_s=40))
    fleet = [held(node(1, 2), Held(3, free_in_s=500), None), soon]
    first = waits(decide([wants(6, 2)], fleet))[6]
    assert first.expected_in_s == 40
    assert "n2 is kept" in first.reason


def test_a_launch_never_goes_first_and_nothing_is_kept_behind_one() -> None:
    fleet = [held(node(1, 2), Held(3, free_in_s=100), None)]
    assert not placed(decide([wants(4, 2), wants(5, duration_s=5, until_stopped=True)], fleet))
    fleet = [held(node(1, 2), Held(3, until_stopped=True), None)]
    decisions = decide([wants(4, 2), wants(5)], fleet)
    assert 5 in placed(decisions)
    assert waits(decisions)[4].expected_in_s is None
    assert "#3 is a launch and stays" in waits(decisions)[4].reason


def test_each_kind_of_device_has_its_own_next_job() -> None:
    cpu = replace(node(2), devices=tuple(FreeDevice(200 + i, "cpu", i, 40 * GIB) for i in range(2)))
    fleet = [held(node(1, 2), Held(3, free_in_s=9), None), held(cpu, Held(4, free_in_s=9), None)]
    queue = [
        wants(5, 2, device_kind="cuda"),
        wants(6, 2, device_kind="cpu"),
        wants(7, device_kind="cuda"),
        wants(8, device_kind="cpu"),
    ]
    assert not placed(decide(queue, fleet))


def test_of_two_gaps_on_a_node_the_one_that_is_long_enough_is_used() -> None:
    kinds = ("cpu", "cpu", "cuda", "cuda")
    mixed = replace(node(1), devices=tuple(FreeDevice(100 + i, kind, i, 40 * GIB) for i, kind in enumerate(kinds)))
    fleet = [held(mixed, None, Held(3, free_in_s=20), None, Held(4, free_in_s=50))]
    queue = [wants(5, 2, device_kind="cuda"), wants(6, 2, device_kind="cpu"), wants(7, duration_s=30)]
    assert {job: start.devices for job, start in placed(decide(queue, fleet)).items()} == {7: (102,)}


def test_without_backfill_nobody_passes() -> None:
    fleet = [held(node(1, 2), Held(3, free_in_s=100), None), held(node(2, 2), Held(9, free_in_s=900), None)]
    decisions = decide([wants(4, 2), wants(5, duration_s=1), wants(6, node="n2")], fleet, Policy(backfill=False))
    assert set(placed(decisions)) == {6}
    assert (waits(decisions)[5].expected_in_s or 0) >= 100


def test_more_jobs_may_have_devices_kept() -> None:
    fleet = [held(node(1, 2), Held(3, free_in_s=100), None), held(node(2, 2), Held(9, free_in_s=900), None)]
    queue = [wants(4, 2), wants(5, 2), wants(6)]
    assert 6 in placed(decide(queue, fleet))
    decisions = decide(queue, fleet, Policy(reservations=2))
    assert 6 in waits(decisions)
    assert "n2 is kept" in waits(decisions)[5].reason


def test_those_behind_are_told_when_those_before_them_are_done() -> None:
    fleet = [held(node(1), Held(3, free_in_s=100))]
    decisions = decide([wants(4, duration_s=50), wants(5, duration_s=10), wants(6), wants(7)], fleet)
    assert [waits(decisions)[job].expected_in_s for job in (4, 5, 6, 7)] == [100, 150, 160, None]
    assert [waits(decisions)[job].position for job in (4, 5, 6, 7)] == [1, 2, 3, 4]
    assert "behind job #4" in waits(decisions)[6].reason


def test_several_nodes_start_together_or_not_at_all() -> None:
    fleet = [node(1, 4), held(node(2, 4), Held(3, free_in_s=60), None, None, None), node(3, 4)]
    (start,) = decide([wants(5, 4, nodes=2)], fleet)
    assert start == placed([start])[5]
    assert placed([start])[5].parts == ((1, (100, 101, 102, 103)), (3, (300, 301, 302, 303)))
    assert (placed([start])[5].node, placed([start])[5].devices) == placed([start])[5].parts[0]
    decisions = decide([wants(5, 4, nodes=3), wants(6)], fleet)
    assert not placed(decisions)
    assert waits(decisions)[5].expected_in_s == 60
    assert "4 devices on each of 3 nodes" in waits(decisions)[5].reason
    assert "3 nodes are kept" in waits(decisions)[5].reason
    (never,) = decide([wants(5, 4, nodes=4)], fleet)
    assert "Only 3 of the 4 nodes" in waits([never])[5].reason


def test_a_gang_rather_gets_nodes_that_are_alike() -> None:
    fleet = [node(n, 2, labels={"gpu": "a" if n in (2, 4) else "b"}) for n in (1, 2, 3, 4)]
    preferring = wants(5, 2, nodes=2, preferred={"gpu": "a"})
    assert [part[0] for part in placed(decide([preferring], fleet))[5].parts] == [2, 4]


def test_preferred_labels_weigh_more_than_a_tight_fit_and_never_forbid() -> None:
    fleet = [node(1, 1), node(2, 4, labels={"zone": "a"})]
    assert placed(decide([wants(5, preferred={"zone": "a"})], fleet))[5].node == 2
    assert placed(decide([wants(5, preferred={"zone": "b"})], fleet))[5].node == 1


def test_an_overdue_holder_lets_nobody_pass() -> None:
    fleet = [held(node(1, 2), Held(3, free_in_s=-50), None)]
    decisions = decide([wants(4, 2), wants(5, duration_s=1)], fleet)
    assert not placed(decisions)
    assert waits(decisions)[4].expected_in_s == 0


def test_of_nodes_that_open_at_once_the_one_with_fewer_busy_devices_is_kept() -> None:
    both = held(node(1, 2), Held(3, free_in_s=100), Held(4, free_in_s=100))
    one = held(node(2, 2), None, Held(5, free_in_s=100))
    assert "n2 is kept" in waits(decide([wants(6, 2)], [both, one]))[6].reason


def test_a_node_that_is_too_small_is_never_kept() -> None:
    small, large = held(node(1), Held(3, free_in_s=10)), held(node(2, 2), Held(4, free_in_s=100), None)
    first = waits(decide([wants(5, 2)], [small, large]))[5]
    assert "n2 is kept" in first.reason
    assert first.expected_in_s == 100


def test_nothing_is_kept_behind_a_launch_that_waits() -> None:
    fleet = [held(node(1), Held(3, free_in_s=100))]
    decisions = decide([wants(4, until_stopped=True), wants(5)], fleet, Policy(reservations=2))
    assert "n1 is kept" in waits(decisions)[4].reason
    assert "is kept" not in waits(decisions)[5].reason


def test_every_gap_that_is_long_enough_is_used() -> None:
    fleet = [held(node(n, 2), Held(n, free_in_s=100), None) for n in (1, 2)]
    queue = [wants(4, 2), wants(5, 2), wants(6, duration_s=30), wants(7, duration_s=40)]
    started = placed(decide(queue, fleet, Policy(reservations=2)))
    assert {job: start.node for job, start in started.items()} == {6: 1, 7: 2}


def test_on_a_node_what_is_kept_for_nobody_goes_first() -> None:
    kinds = ("cpu", "cpu", "cuda")
    mixed = replace(node(1), devices=tuple(FreeDevice(100 + i, kind, i, 40 * GIB) for i, kind in enumerate(kinds)))
    fleet = [held(mixed, None, Held(3, free_in_s=100), None)]
    started = placed(decide([wants(5, 2, device_kind="cpu"), wants(6, duration_s=50)], fleet))
    assert started[6].devices == (102,)


@pytest.mark.parametrize(
    ("free_in_s", "expected_in_s"),
    [(None, 60), (500, 60), (10, 10), (-5, 0)],
    ids=str,
)
@pytest.mark.parametrize("launch", [False, True])
def test_a_job_that_was_told_to_stop_ends_within_the_policys_time(
    free_in_s: float | None, expected_in_s: float, launch: bool
) -> None:
    fleet = [held(node(1), Held(3, free_in_s=free_in_s, until_stopped=launch, stopping=True))]
    assert waits(decide([wants(5)], fleet, Policy(stop_s=60)))[5].expected_in_s == expected_in_s


@pytest.mark.parametrize(
    ("field", "value"),
    [("points_per_hour", 0), ("half_life_s", 0), ("reservations", 0), ("pack_share", 1.5), ("shares", {"red": 0})],
)
def test_a_policy_with_which_jobs_could_starve_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        Policy(**{field: value})  # type: ignore[arg-type]
