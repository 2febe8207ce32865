"""Min–max downsampling keeps what a viewer would miss."""

from hypothesis import given
from hypothesis import strategies as st

from portal.telemetry.downsample import Point, min_max


def series(values: list[float]) -> list[Point]:
    return [{"attempt": 1, "seq": i, "step": i, "at": float(i), "value": v} for i, v in enumerate(values, 1)]


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(4, 50))
def test_extremes_ends_and_order_survive(values: list[float], limit: int) -> None:
    points = series(values)
    kept = min_max(points, limit)
    assert len(kept) <= max(limit, min(len(points), limit))
    assert [p["seq"] for p in kept] == sorted({p["seq"] for p in kept})
    if values:
        assert min(p["value"] for p in kept) == min(values)
        assert max(p["value"] for p in kept) == max(values)
        assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_a_short_series_is_whole() -> None:
    points = series([1.0, 2.0, 3.0])
    assert min_max(points, 2000) == points
