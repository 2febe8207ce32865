"""Which events have arrived, in whatever order they came."""

from hypothesis import given
from hypothesis import strategies as st

from portal.telemetry.received import Received

batches = st.lists(st.lists(st.integers(1, 40), max_size=8), max_size=12)


@given(batches)
def test_it_is_the_set_of_what_came(came: list[list[int]]) -> None:
    received, seen = Received(), set[int]()
    for batch in came:
        received = received.plus(batch)
        seen |= set(batch)
        assert {seq for seq in range(1, 60) if seq in received} == seen
        assert received.upto + 1 not in seen
        gaps = {seq for first, last in received.missing for seq in range(first, last + 1)}
        assert gaps == set(range(1, max(seen, default=0) + 1)) - seen
        assert received.whole == (not gaps)
    assert received.without_gaps() == Received(max(seen, default=0))


@given(st.permutations(range(1, 20)))
def test_all_of_them_in_any_order_are_whole(order: list[int]) -> None:
    received = Received()
    for seq in order:
        received = received.plus([seq])
    assert received == Received(19)
