"""What finished runs teach: how many it takes, how outliers fare, and what the factors do to an estimate."""

from statistics import median

from hypothesis import given
from hypothesis import strategies as st

from portal.planner import memory, models
from portal.planner.answer import Memory, Share, Speed
from portal.planner.calibration import Observation, apply, apply_speed, fit, inliers, method_key
from portal.planner.devices import DEVICES
from portal.planner.request import Method, Workload

KEY = "lora/bf16"
GIB = 2**30


def seen(*ratios: float, key: str = KEY, device: str = "a100-80") -> list[Observation]:
    return [Observation(device, key, predicted_bytes=10 * GIB, measured_bytes=int(10 * GIB * r)) for r in ratios]


def estimate() -> Memory:
    return memory.estimate(models.shape("llama-2-7b"), Workload(goal="lora"), Method(), DEVICES["a100-80"])


def test_two_runs_teach_nothing_and_three_do() -> None:
    assert fit(seen(1.1, 1.1)).factor("a100-80", KEY) is None
    found = fit(seen(1.1, 1.1, 1.1)).factor("a100-80", KEY)
    assert found is not None
    assert round(found.memory_factor, 6) == 1.1
    assert found.words == "calibrated on 3 runs here, median error 0%"


def test_one_wild_run_changes_little() -> None:
    calm, wild = (fit(seen(1.10, 1.11, 1.09, 1.10, 1.12, last)).factor("a100-80", KEY) for last in (1.10, 9.0))
    assert calm is not None
    assert wild is not None
    assert abs(wild.memory_factor / calm.memory_factor - 1) < 0.02


def test_it_leans_to_more_rather_than_less() -> None:
    ratios = (0.98, 1.0, 1.02, 1.04, 1.06)
    found = fit(seen(*ratios)).factor("a100-80", KEY)
    assert found is not None
    assert sum(ratio <= found.memory_factor + 1e-6 for ratio in ratios) >= 4


def test_runs_that_agree_on_nothing_correct_nothing() -> None:
    found = fit(seen(3.1, 1.6, 0.86, 0.82)).factor("a100-80", KEY)
    assert found is not None
    assert (found.memory_factor, round(found.median_error, 2)) == (1.0, 0.30)
    assert found.words == "4 runs here differ too much for one factor on memory, median error 30%"


@given(st.lists(st.floats(0.2, 5.0), min_size=3, max_size=30))
def test_a_correction_is_never_worse_than_none(ratios: list[float]) -> None:
    found = fit(seen(*ratios)).factor("a100-80", KEY)
    assert found is not None
    assert found.median_error <= max(median(abs(1 / ratio - 1) for ratio in ratios), 0.05) + 1e-6


def test_devices_and_methods_are_told_apart() -> None:
    calibration = fit([*seen(1.1, 1.1, 1.1), *seen(1.4, 1.4, 1.4, device="l4"), *seen(0.9, 0.9, 0.9, key="full/bf16")])
    factors = {
        round(found.memory_factor, 3)
        for place in (("a100-80", KEY), ("l4", KEY), ("a100-80", "full/bf16"))
        if (found := calibration.factor(*place))
    }
    assert factors == {1.1, 1.4, 0.9}
    assert calibration.factor("h100-80", KEY) is None


def test_a_method_with_too_few_runs_learns_from_its_goal() -> None:
    runs = [*seen(1.2, key="lora/bf16"), *seen(1.2, key="lora/fp32"), *seen(1.2, key="lora/bf16/checkpointed")]
    calibration = fit(runs)
    assert calibration.factor("a100-80", "lora/bf16/zero2") is not None
    assert calibration.factor("a100-80", "qlora/nf4-bf16") is None


def test_what_was_not_measured_does_not_count() -> None:
    runs = [*seen(1.1, 1.1), Observation("a100-80", KEY, predicted_bytes=GIB), Observation("a100-80", KEY, 0, 0)]
    assert fit(runs).factor("a100-80", KEY) is None


def test_speed_is_learnt_beside_memory() -> None:
    runs = [Observation("l4", KEY, predicted_step_s=2.0, measured_step_s=2.0 * ratio) for ratio in (1.5, 1.6, 1.5)]
    found = fit(runs).factor("l4", KEY)
    assert found is not None
    assert (found.memory_factor, found.speed_factor) == (1.0, 1.5)


def test_a_factor_moves_every_line_and_the_verdict() -> None:
    plain = estimate()
    assert plain.verdict == "fits"
    found = fit(seen(3.9, 3.9, 3.9)).factor("a100-80", KEY)
    assert found is not None
    moved = apply(plain, found)
    assert moved.expected == sum(line.expected for line in moved.lines)
    assert abs(moved.expected / plain.expected - 3.9) < 0.01
    assert moved.verdict != "fits"
    assert (moved.capacity, moved.usable) == (plain.capacity, plain.usable)


def test_a_slower_run_makes_fewer_tokens_for_more_money() -> None:
    found = fit([Observation("l4", KEY, predicted_step_s=1.0, measured_step_s=2.0)] * 3).factor("l4", KEY)
    assert found is not None
    shares = (Share(name="compute", seconds=1.0, words=""),)
    moved = apply_speed(Speed(step_s=1.0, tokens_per_s=100.0, cost_per_million_tokens=3.0, shares=shares), found)
    assert (moved.step_s, moved.tokens_per_s, moved.cost_per_million_tokens) == (2.0, 50.0, 6.0)
    assert moved.shares[0].seconds == 2.0
    assert moved.ttft_s is None


def test_keys_tell_ways_apart_that_differ_in_what_they_keep() -> None:
    keys = {
        method_key("lora", Method()),
        method_key("lora", Method(precision="fp32")),
        method_key("lora", Method(checkpointing=True)),
        method_key("qlora", Method(quantization="nf4")),
        method_key("full", Method(zero_stage=3, data=8)),
        method_key("full", Method(tensor=2)),
    }
    assert len(keys) == 6
    assert method_key("lora", Method(micro_batch=8)) == method_key("lora", Method(micro_batch=1))


@given(st.lists(st.floats(0.5, 2.0), min_size=3, max_size=30))
def test_a_factor_is_never_beyond_what_was_seen(ratios: list[float]) -> None:
    found = fit(seen(*ratios)).factor("a100-80", KEY)
    assert found is not None
    assert found.memory_factor == 1 or min(ratios) * 0.999 <= found.memory_factor <= max(ratios) * 1.001
    assert found.median_error >= 0


@given(
    st.lists(st.floats(0.97, 1.03), min_size=7, max_size=20),
    st.lists(st.floats(3.0, 50.0), min_size=1, max_size=3),
)
def test_a_few_wild_runs_never_lead(calm: list[float], wild: list[float]) -> None:
    found = fit(seen(*calm, *wild)).factor("a100-80", KEY)
    assert found is not None
    assert found.memory_factor <= 1.04
    assert set(inliers([*calm, *wild])) <= set(calm)
