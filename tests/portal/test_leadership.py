"""Several controllers, one leader: by turns, never two at once, and another within ten seconds."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal.jobs.leadership import LAPSE_S, LOOK_S, RENEW_S, Candidate
from portal.jobs.models import Leadership

pytestmark = pytest.mark.django_db


class Time:
    """A monotonic clock and a wall clock that a test moves."""

    def __init__(self, skew_s: float = 0) -> None:
        self.s = 1000.0
        self.skew_s = skew_s

    def clock(self) -> float:
        return self.s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.s + self.skew_s)


def candidate(time: Time, name: str, skew_s: float = 0) -> Candidate:
    skewed = Time(skew_s)
    skewed.s = time.s

    def now() -> datetime:
        skewed.s = time.s
        return skewed.now()

    return Candidate(holder=name, clock=time.clock, now=now)


def test_the_first_leads_and_the_second_waits() -> None:
    time = Time()
    first, second = candidate(time, "first"), candidate(time, "second")
    assert first.step()
    for _ in range(20):
        time.s += RENEW_S
        assert first.step()
        assert not second.step()
        assert (first.leads, second.leads) == (True, False)
    assert Leadership.objects.get().holder == "first"


def test_another_takes_over_within_ten_seconds_of_a_silent_death() -> None:
    time = Time()
    first, second = candidate(time, "first"), candidate(time, "second")
    first.step()
    second.step()
    died = time.s
    while not second.step():
        time.s += LOOK_S
    assert time.s - died <= 10
    assert not first.leads
    assert not first.step()
    assert Leadership.objects.get().term == 2


def test_one_that_stops_in_order_is_followed_at_once() -> None:
    time = Time()
    first, second = candidate(time, "first"), candidate(time, "second")
    first.step()
    assert not second.step()
    first.resign()
    assert not first.leads
    assert second.step()


def test_one_whose_process_ended_on_this_machine_is_followed_at_once() -> None:
    time = Time()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = Candidate(clock=time.clock, now=time.now)
    first = candidate(time, mine.holder.replace(f":{os.getpid()}:", f":{child.pid}:"))
    elsewhere = candidate(time, f"elsewhere:{2**22 + 1}:1")
    assert first.step()
    assert not mine.step()
    child.communicate()
    assert mine.step()
    mine.resign()
    assert elsewhere.step()
    assert not mine.step(), "whether a process of another machine lives can't be seen from here"


def test_a_leader_that_slept_knows_at_once_that_it_leads_no_more() -> None:
    time = Time()
    first = candidate(time, "first")
    first.step()
    time.s += LAPSE_S
    assert not first.leads
    assert first.step(), "nobody took it meanwhile"


def test_a_row_of_long_ago_is_free_at_once() -> None:
    time = Time()
    candidate(time, "first").step()
    time.s += 3600
    assert candidate(time, "second").step()


def test_wrong_clocks_make_no_two_leaders_and_no_one_wait_for_ever() -> None:
    time = Time()
    first, second = candidate(time, "first", skew_s=-90), candidate(time, "second", skew_s=+25)
    first.step()
    for _ in range(10):
        time.s += RENEW_S
        first.step()
        assert not second.step()
    died = time.s
    while not second.step():
        time.s += LOOK_S
    assert time.s - died <= 10


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 4), st.sampled_from(["step", "step", "step", "resign"]))))
def test_never_two_at_once(moves: list[tuple[int, float, str]]) -> None:
    Leadership.objects.all().delete()
    time = Time()
    all_of_them = [candidate(time, str(n), skew_s=n * 20 - 20) for n in range(3)]
    for who, wait_s, what in moves:
        time.s += wait_s
        getattr(all_of_them[who], what)()
        leaders = [one.holder for one in all_of_them if one.leads]
        assert len(leaders) <= 1
        if leaders:
            assert Leadership.objects.get().holder == leaders[0]
