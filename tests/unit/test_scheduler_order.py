"""Who goes before whom: priority, waiting and what teams have used."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.jobs.scheduler import Policy, Waiting, decide
from portal.jobs.scheduler.order import effective_priority, in_order, overtaking_s
from portal.jobs.scheduler.share import Ledger, accrue, used
from tests.unit.scheduler_fleet import HOUR, node, placed, waits, wants


def test_a_higher_priority_goes_first_until_the_other_has_waited_long_enough() -> None:
    fleet = [node(1)]
    old, urgent = wants(1, queued_at=0), wants(2, priority=10, queued_at=9 * HOUR)
    assert set(placed(decide([old, urgent], fleet, Policy(), now=9 * HOUR))) == {2}
    later = wants(2, priority=10, queued_at=11 * HOUR)
    assert set(placed(decide([old, later], fleet, Policy(), now=11 * HOUR))) == {1}


def test_among_equals_the_first_one_queued_goes_first_in_whatever_order_they_are_given() -> None:
    queue = [wants(3, queued_at=5), wants(1, queued_at=9), wants(2, queued_at=5)]
    decisions = decide(queue, [node(1)], Policy(), now=9)
    assert [decision.job for decision in decisions] == [2, 3, 1]


def test_the_team_that_used_less_goes_first_and_the_other_is_told() -> None:
    queue = [wants(1, team="red"), wants(2, team="blue"), wants(3, team="red")]
    decisions = decide(queue, [node(1)], Policy(), usage={"red": 9e6, "blue": 1e6}, now=0)
    assert set(placed(decisions)) == {2}
    assert "Team red has used more than its share" in waits(decisions)[3].reason
    wide = Policy(shares={"red": 20})
    assert set(placed(decide(queue, [node(1)], wide, usage={"red": 9e6, "blue": 1e6}))) == {1}


def test_a_single_decision_does_not_give_one_team_everything() -> None:
    queue = [wants(n, team="red", queued_at=0) for n in range(1, 9)]
    queue += [wants(n, team="blue", queued_at=1) for n in range(9, 17)]
    started = placed(decide(queue, [node(1, 8)], Policy(), now=1))
    assert sum(job < 9 for job in started) == 4


def test_what_was_used_counts_less_with_time() -> None:
    assert used(2, 0, 100, now=100, half_life_s=1e9) == pytest.approx(200, rel=1e-6)
    assert used(2, 0, 1, now=1 + 50, half_life_s=50) == pytest.approx(used(2, 0, 1, now=1, half_life_s=50) / 2)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 64)), min_size=1, max_size=8), st.floats(60, 1e6))
def test_counting_step_by_step_or_from_the_record_is_the_same(
    steps: list[tuple[float, int]], half_life_s: float
) -> None:
    usage: dict[str, float] = {}
    now, runs = 0.0, []
    for seconds, devices in steps:
        usage = accrue(usage, {"red": devices}, seconds, half_life_s)
        runs.append((devices, now, now + seconds))
        now += seconds
    whole = sum(used(devices, start, end, now, half_life_s) for devices, start, end in runs)
    assert math.isclose(usage["red"], whole, rel_tol=1e-6, abs_tol=1e-6)


jobs = st.builds(
    wants,
    st.just(1),
    st.integers(1, 8),
    priority=st.integers(-100, 100),
    queued_at=st.floats(0, 1e6),
    duration_s=st.none() | st.floats(0, 1e6),
    nodes=st.integers(1, 4),
)
policies = st.builds(
    Policy,
    points_per_hour=st.floats(0.1, 10),
    fair_share_points=st.floats(0, 100),
    old_s=st.floats(60, 1e6),
)


@given(jobs, policies, st.floats(0, 1e6), st.floats(0.01, 1e6), st.floats(0, 1), st.floats(0, 1))
def test_an_old_jobs_priority_only_rises_whatever_its_team_uses(
    job: Waiting, policy: Policy, after: float, more: float, used_then: float, used_later: float
) -> None:
    now = (job.queued_at or 0) + policy.old_s + after
    then = effective_priority(job, policy, now, used_then * policy.fair_share_points)
    later = effective_priority(job, policy, now + more, used_later * policy.fair_share_points)
    assert later >= then
    assert later > then or more < 1


@given(jobs, jobs, policies, st.floats(1, 1e6), st.floats(0, 1), st.floats(0, 1))
def test_nobody_is_overtaken_by_a_job_queued_after_the_policys_bound(
    old: Waiting, new: Waiting, policy: Policy, after: float, old_used: float, new_used: float
) -> None:
    bound = overtaking_s(policy, new.priority - old.priority)
    queued_at = (old.queued_at or 0) + bound + after
    late = wants(2, new.resources.devices, priority=new.priority, duration_s=new.duration_s, queued_at=queued_at)
    for now in (queued_at, queued_at + 1e5):
        ours = effective_priority(old, policy, now, old_used * policy.fair_share_points)
        theirs = effective_priority(late, policy, now, new_used * policy.fair_share_points)
        assert ours > theirs or math.isclose(ours, theirs, abs_tol=1e-6)


asked = st.tuples(
    st.sampled_from(("red", "blue", "green")),
    st.sampled_from((-100, 0, 0, 5, 100)),
    st.one_of(st.none(), st.sampled_from((0.0, 99 * HOUR, 200 * HOUR)), st.floats(0, 101 * HOUR)),
    st.integers(0, 8),
)
"""Team, priority, when it was queued, devices it is given when its turn comes (0: it waits)."""


@given(st.lists(asked, max_size=30), st.sampled_from((HOUR, 72 * HOUR)), st.sampled_from((0.0, 24.0, 500.0)))
def test_the_order_is_that_of_weighing_everybody_again_at_every_turn(
    jobs: list[tuple[str, int, float | None, int]], old_s: float, fair_share_points: float
) -> None:
    policy, now = Policy(old_s=old_s, fair_share_points=fair_share_points), 100 * HOUR
    queue = [wants(n, team=team, priority=points, queued_at=at) for n, (team, points, at, _) in enumerate(jobs)]

    def ledger() -> Ledger:
        return Ledger({"red": 5e4, "blue": 1e4}, [job.team for job in queue], 8, policy)

    def give(to: Ledger, job: Waiting) -> None:
        if devices := jobs[job.job][3]:
            to.give(job.team, devices, None)

    told, weighed, left = ledger(), ledger(), list(queue)
    for job in in_order(queue, policy, now, told):
        best = min(
            left,
            key=lambda one: (
                -effective_priority(one, policy, now, weighed.penalty(one.team)),
                now if one.queued_at is None else one.queued_at,
                one.job,
            ),
        )
        assert job == best
        left.remove(best)
        give(told, job)
        give(weighed, job)
    assert not left
