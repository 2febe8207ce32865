"""Min–max downsampling keeps what a viewer would miss."""

from hypothesis import given
from hypothesis import strategies as st

from portal.telemetry.downsample import min_max


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(4, 50))
def test_extremes_ends_and_order_survive(values: list[float], limit: int) -> None:
    kept = min_max(values, limit)
    assert len(kept) <= limit
    assert kept == sorted(set(kept))
    if values:
        assert min(values[place] for place in kept) == min(values)
        assert max(values[place] for place in kept) == max(values)
        assert (kept[0], kept[-1]) == (0, len(values) - 1)


def test_a_short_series_is_whole() -> None:
    assert min_max([1.0, 2.0, 3.0], 2000) == [0, 1, 2]
