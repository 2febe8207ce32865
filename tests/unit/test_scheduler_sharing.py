"""Several jobs on one device, and jobs that make room for others."""

from dataclasses import replace
from typing import Any

from portal.jobs.scheduler import GIB, Held, Policy, decide
from tests.unit.scheduler_fleet import HOUR, held, node, placed, preempted, waits, wants

PACKS = Policy(packs=frozenset({"launch"}))
PREEMPTS = Policy(preempts=True)


def launch(job: int, gib: float, **more: Any) -> Any:
    return wants(job, kind="launch", planned_bytes=int(gib * GIB), until_stopped=True, **more)


def running(job: int, priority: int = 0, waited_s: float = 0.0, now: float = 0.0, **more: Any) -> Held:
    """A preemptible job that waited so long before it started."""
    return Held(job, if_stopped=wants(job, priority=priority, queued_at=now - waited_s), **more)


def test_devices_are_exclusive_unless_the_policy_says_otherwise() -> None:
    assert set(placed(decide([launch(1, 4), launch(2, 4)], [node(1)], Policy()))) == {1}
    assert set(placed(decide([launch(1, 4), launch(2, 4)], [node(1)], PACKS))) == {1, 2}


def test_training_and_jobs_of_unknown_size_get_their_own_device() -> None:
    train = wants(2, kind="finetune", planned_bytes=GIB)
    unknown = wants(3, kind="launch")
    decisions = decide([launch(1, 4), train, unknown, launch(4, 4)], [node(1, 3)], PACKS)
    devices = {job: placement.devices for job, placement in placed(decisions).items()}
    assert devices == {1: (100,), 2: (101,), 3: (102,), 4: (100,)}


def test_planned_bytes_never_exceed_the_share_of_memory() -> None:
    decisions = decide([launch(1, 18), launch(2, 18), launch(3, 1)], [node(1)], PACKS)
    assert set(placed(decisions)) == {1, 2}  # 90% of 40 GiB
    assert "1.0 GiB of one that may be shared" in waits(decisions)[3].reason


def test_a_placement_says_what_it_reserves() -> None:
    decisions = decide([launch(1, 4), launch(2, 1, devices=2), launch(3, 39)], [node(1, 4)], PACKS)
    reserved = {job: placement.reserved_bytes for job, placement in placed(decisions).items()}
    assert reserved == {1: 4 * GIB, 2: None, 3: None}, "one of several devices, or that leaves no room, shares nothing"


def test_no_more_share_a_device_than_the_policy_says() -> None:
    few = replace(PACKS, pack_jobs=2)
    assert set(placed(decide([launch(job, 1) for job in (1, 2, 3)], [node(1)], few))) == {1, 2}
    assert set(placed(decide([launch(job, 1) for job in (1, 2, 3)], [node(1)], PACKS))) == {1, 2, 3}


def test_the_fullest_device_that_has_room_is_taken() -> None:
    sizes = (8, 30, 20)
    fleet = [held(node(1, 3), *(Held(9 + i, kind="launch", planned_bytes=gib * GIB) for i, gib in enumerate(sizes)))]
    assert placed(decide([launch(1, 10)], fleet, PACKS))[1].devices == (102,)
    assert placed(decide([launch(1, 4)], fleet, PACKS))[1].devices == (101,)


def test_a_shared_device_is_free_when_the_last_one_has_left() -> None:
    holds = tuple(Held(7 + s, free_in_s=s, kind="launch", planned_bytes=GIB) for s in (60, 100, 20))
    fleet = [replace(node(1), devices=(replace(node(1).devices[0], holds=holds),))]
    assert waits(decide([wants(5)], fleet, PACKS))[5].expected_in_s == 100
    alone = wants(5, kind="finetune", planned_bytes=GIB)
    assert waits(decide([alone], fleet, PACKS))[5].expected_in_s == 100


def test_nobody_joins_a_job_that_has_its_device_alone() -> None:
    fleet = [held(node(1), Held(9, kind="finetune", planned_bytes=GIB))]
    assert not placed(decide([launch(1, 1)], fleet, PACKS))


def test_a_job_of_several_devices_does_not_share() -> None:
    fleet = [held(node(1, 2), *(Held(9, kind="launch", planned_bytes=GIB) for _ in range(2)))]
    assert not placed(decide([launch(1, 1, devices=2)], fleet, PACKS))


def test_room_is_kept_for_the_next_job_that_shares() -> None:
    holds = (Held(8, free_in_s=60, kind="launch", planned_bytes=20 * GIB), Held(9, kind="launch", planned_bytes=GIB))
    fleet = [replace(node(1), devices=(replace(node(1).devices[0], holds=holds),))]
    decisions = decide([launch(1, 30), launch(2, 4)], fleet, PACKS)
    assert not placed(decisions)
    assert waits(decisions)[1].expected_in_s == 60
    brief = wants(3, kind="launch", planned_bytes=GIB, duration_s=60)
    assert set(placed(decide([launch(1, 30), brief], fleet, PACKS))) == {3}


def test_a_full_device_opens_as_soon_as_just_enough_has_left_it() -> None:
    """Two of 18 GiB fill what 40 GiB may be planned for."""
    sizes = {8: 60.0, 9: 500.0}
    holds = tuple(Held(job, free_in_s=s, kind="launch", planned_bytes=18 * GIB) for job, s in sizes.items())
    fleet = [replace(node(1), devices=(replace(node(1).devices[0], holds=holds),))]
    for gib, opens_in_s in ((4, 60), (18, 60), (18.001, 500)):
        assert waits(decide([launch(1, gib)], fleet, PACKS))[1].expected_in_s == opens_in_s


def test_not_even_the_smallest_job_joins_one_that_has_its_device_alone() -> None:
    fleet = [held(node(1), Held(9, kind="finetune", planned_bytes=GIB))]
    for size in (0, 1):
        assert not placed(decide([wants(1, kind="launch", planned_bytes=size)], fleet, PACKS))


def test_a_job_of_higher_priority_has_a_preemptible_one_stopped() -> None:
    fleet = [held(node(1), running(3))]
    decisions = decide([wants(5, priority=10)], fleet, PREEMPTS)
    assert preempted(decisions) == {3: 5}
    assert "#3 is being stopped" in waits(decisions)[5].reason
    assert waits(decisions)[5].expected_in_s == PREEMPTS.stop_s
    assert not preempted(decide([wants(5, priority=10)], fleet, Policy()))
    assert not preempted(decide([wants(5, priority=10)], [held(node(1), Held(3))], PREEMPTS))


def test_nobody_is_stopped_for_a_job_that_has_only_waited_longer() -> None:
    fleet = [held(node(1), running(3)), held(node(2), running(4, -5))]
    assert not preempted(decide([wants(5, queued_at=-99 * HOUR, node="n1")], fleet, PREEMPTS))
    assert preempted(decide([wants(5, queued_at=-99 * HOUR)], fleet, PREEMPTS)) == {4: 5}


def test_what_is_being_stopped_already_is_waited_for() -> None:
    fleet = [held(node(1, 2), replace(running(3), stopping=True), running(4))]
    decisions = decide([wants(5, priority=10), wants(6, priority=10), wants(7)], fleet, PREEMPTS)
    assert preempted(decisions) == {4: 6}


def test_the_job_of_least_priority_goes_and_as_few_as_possible() -> None:
    fleet = [held(node(1, 2), running(3, 5), running(4, 2)), held(node(2, 2), running(6, 2), running(6, 2))]
    assert preempted(decide([wants(9, priority=10)], fleet, PREEMPTS)) == {4: 9}
    assert preempted(decide([wants(9, 2, priority=10)], fleet, PREEMPTS)) == {6: 9}
    assert preempted(decide([wants(9, 2, nodes=2, priority=10)], fleet, PREEMPTS)) == {3: 9, 4: 9, 6: 9}


def test_nobody_is_stopped_for_a_job_that_starts_soon_or_that_it_would_not_help() -> None:
    soon = [held(node(1, 2), running(3), Held(4, free_in_s=30))]
    assert not preempted(decide([wants(5, priority=10)], soon, PREEMPTS))
    stuck = [held(node(1, 2), running(3), Held(4))]
    assert not preempted(decide([wants(5, 2, priority=10)], stuck, PREEMPTS))


def test_what_was_freed_goes_to_the_job_it_was_freed_for() -> None:
    """The stopped job is back in the queue, older than the other one; it doesn't take its device again."""
    now, waited = 100 * HOUR, 5 * HOUR
    urgent = wants(5, priority=10, queued_at=now)
    fleet = [held(node(1), running(3, waited_s=waited, now=now))]
    assert preempted(decide([urgent], fleet, PREEMPTS, now=now)) == {3: 5}
    back = wants(3, queued_at=now - waited)
    assert set(placed(decide([back, urgent], [node(1)], PREEMPTS, now=now + 60))) == {5}


def test_a_job_that_has_waited_long_enough_is_not_stopped_again() -> None:
    fleet = [held(node(1), running(3, waited_s=20 * HOUR))]
    assert not preempted(decide([wants(5, priority=10)], fleet, PREEMPTS))
    assert preempted(decide([wants(5, priority=30)], fleet, PREEMPTS)) == {3: 5}


def test_a_smaller_job_does_not_take_what_is_being_freed() -> None:
    fleet = [held(node(1, 2), running(3), None)]
    decisions = decide([wants(5, 2, priority=10), wants(6), wants(7, duration_s=HOUR)], fleet, PREEMPTS)
    assert preempted(decisions) == {3: 5}
    assert not placed(decisions)
