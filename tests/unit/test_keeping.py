"""What goes by age and by size: never more than must, never what is held, oldest first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract.keeping import DAY_S, YOUNG_S, Limit, Thing, limit_from, select

NOW = 1_800_000_000.0

limits = st.builds(Limit, days=st.sampled_from([0, 0.5, 1, 7, 30]), size=st.integers(0, 2000))


@st.composite
def everything(draw):
    """Things of the last forty days or so, some of them held, some from the future of a clock that went back."""
    drawn = draw(
        st.lists(st.tuples(st.floats(-2 * DAY_S, 40 * DAY_S), st.integers(0, 500), st.booleans()), max_size=30)
    )
    return [Thing(key, NOW - ago, size, "it is needed" if held else "") for key, (ago, size, held) in enumerate(drawn)]


@given(everything(), limits)
def test_what_is_held_or_young_stays_whatever_the_limits(things, limit):
    for item in select(things, limit, NOW):
        assert not item.thing.held
        assert item.thing.at <= NOW - YOUNG_S


@given(everything(), limits)
def test_everything_too_old_goes_and_says_so(things, limit):
    gone = {item.thing.key: item.why for item in select(things, limit, NOW)}
    for thing in things:
        too_old = limit.days and NOW - thing.at > limit.days * DAY_S and NOW - thing.at >= YOUNG_S
        if too_old and not thing.held:
            assert gone[thing.key] == f"older than {limit.days:g} days"
        elif thing.key in gone:
            assert gone[thing.key].startswith("more than ")


@given(everything(), limits)
def test_what_is_left_fits_or_nothing_more_may_go(things, limit):
    gone = {item.thing.key for item in select(things, limit, NOW)}
    left = [thing for thing in things if thing.key not in gone]
    may_go = [thing for thing in left if not thing.held and thing.at <= NOW - YOUNG_S and thing.size]
    assert not limit.size or sum(thing.size for thing in left) <= limit.size or not may_go


@given(everything(), limits)
def test_no_more_goes_than_must(things, limit):
    """Were the last that went by size kept, it would be too much; and nothing older was passed over for it."""
    gone = select(things, limit, NOW)
    by_size = [item.thing for item in gone if item.why.startswith("more than ")]
    if not by_size:
        return
    total = sum(thing.size for thing in things) - sum(item.thing.size for item in gone)
    assert total + by_size[-1].size > limit.size
    kept = [thing for thing in things if thing.key not in {item.thing.key for item in gone}]
    older = [thing for thing in kept if thing.at < by_size[-1].at and not thing.held and thing.size]
    assert older == []


@given(everything(), limits)
def test_the_order_of_the_things_does_not_matter_and_a_second_look_finds_nothing(things, limit):
    gone = {item.thing.key for item in select(things, limit, NOW)}
    # Of things as old as each other either may go; the hypothesis is about times that differ.
    if len({thing.at for thing in things}) == len(things):
        assert {item.thing.key for item in select(things[::-1], limit, NOW)} == gone
    assert select([thing for thing in things if thing.key not in gone], limit, NOW) == []


def test_without_limits_nothing_goes():
    assert select([Thing("a", 0, 10**15)], Limit(), NOW) == []


def test_a_thing_is_kept_to_the_end_of_its_days():
    limit = Limit(days=2)
    assert select([Thing("a", NOW - 2 * DAY_S, 1)], limit, NOW) == []
    assert len(select([Thing("a", NOW - 2 * DAY_S - 1, 1)], limit, NOW)) == 1


def test_limits_come_from_the_environment():
    assert limit_from({}, "RUNS", days=30, size=2, unit="GIB") == Limit(30, 2 * 2**30, "GIB")
    chosen = {"LIFTOFF_KEEP_LOGS_DAYS": " 0.5", "LIFTOFF_KEEP_LOGS_ROWS": "1000"}
    assert limit_from(chosen, "LOGS", days=30, size=2, unit="ROWS") == Limit(0.5, 1000, "ROWS")


@pytest.mark.parametrize("text", ["-1", "soon", "nan", "inf", "1e9"])
def test_a_limit_that_is_none_is_refused_by_name(text):
    with pytest.raises(ValueError, match=r"^LIFTOFF_KEEP_RUNS_DAYS: '.+' is no limit; use a number from 0 .*\.$"):
        limit_from({"LIFTOFF_KEEP_RUNS_DAYS": text}, "RUNS", days=1, size=1, unit="GIB")
