"""Ranked plans, the inverse questions, and what to change when nothing fits: from built-in names, no hardware."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.planner import clusters, models
from portal.planner.answer import PlanAnswer
from portal.planner.calibration import Observation, fit, method_key
from portal.planner.plan import plan
from portal.planner.request import Fixed, PlanRequest, Workload
from portal.planner.rules import DEFAULT_RULES, Rules

ALONE = Fixed(
    precision="bf16", zero_stage=0, offload_optimizer=False, offload_parameters=False,
    tensor_parallel=1, pipeline_parallel=1, data_parallel=1,
)  # fmt: skip
"""One device, and no way out of its memory."""


def ask(
    model: str, hardware: str, *, rules: Rules = DEFAULT_RULES, fixed: Fixed | None = None, **work: object
) -> PlanAnswer:
    request = PlanRequest(
        model=model, hardware=hardware, workload=Workload.model_validate(work), fixed=fixed or Fixed(), limit=8
    )
    return plan(request, models.shape(model), clusters.fleet(hardware), rules)


def value(answer: PlanAnswer, question: str) -> object:
    return next(largest.value for largest in answer.largest if largest.question == question)


def test_what_fits_on_one_device_unquantized_is_served_so() -> None:
    best = ask("llama-3-8b", "8xa100-80", goal="infer", context=8192).plans[0]
    assert (best.method.devices, best.method.quantization, best.method.precision) == (1, "none", "bf16")
    assert best.memory.verdict == "fits"
    assert best.memory.expected <= best.memory.usable


def test_quality_goes_before_devices_and_devices_before_speed_when_serving() -> None:
    answer = ask("llama-3-70b", "8xa100-80", goal="infer", context=4096)
    assert answer.plans[0].method.quantization == "none"
    assert answer.plans[0].method.devices in (2, 4)
    smaller = [p for p in answer.plans if p.method.quantization != "none"]
    assert smaller, "no quantized way is offered beside it"
    assert any(p.method.devices < answer.plans[0].method.devices for p in smaller)


def test_training_takes_the_fleet_where_it_pays() -> None:
    one = ask("llama-3-8b", "a100-80", goal="lora", context=2048, batch=64).plans[0]
    eight = ask("llama-3-8b", "8xa100-80", goal="lora", context=2048, batch=64).plans[0]
    assert eight.method.devices == 8
    assert eight.speed.tokens_per_s > 4 * one.speed.tokens_per_s


@pytest.mark.parametrize("goal", ["infer", "lora", "qlora", "full"])
def test_every_plan_says_its_arithmetic_and_its_why(goal: str) -> None:
    answer = ask("llama-2-7b", "2x8-a100-80-25gbe", goal=goal, context=4096, batch=32, concurrency=8)
    assert answer.verdict == "fits"
    for each in answer.plans:
        assert each.why, each.title
        assert all(line.words for line in each.memory.lines)
        assert sum(line.expected for line in each.memory.lines) == each.memory.expected
        assert each.memory.low <= each.memory.expected <= each.memory.high
        assert sum(share.seconds for share in each.speed.shares) > 0
        assert each.method.devices == each.nodes * each.devices_per_node or each.method.devices <= each.devices_per_node
        if goal != "infer":
            assert each.method.micro_batch * each.method.accumulation * each.method.data == 32


def test_what_is_fixed_stays_fixed() -> None:
    fixed = Fixed(precision="fp16", micro_batch=2, gradient_checkpointing=True, zero_stage=2, data_parallel=4)
    for each in ask("llama-2-7b", "8xa100-80", goal="lora", batch=16, fixed=fixed).plans:
        method = each.method
        assert (method.precision, method.micro_batch, method.checkpointing) == ("fp16", 2, True)
        assert (method.zero_stage, method.data) == (2, 4)


def test_the_largest_is_the_last_that_fits() -> None:
    answer = ask("llama-3-8b", "a100-80", goal="infer", context=4096, concurrency=4)
    most = value(answer, "concurrency")
    assert isinstance(most, int)
    assert most >= 4
    same = ALONE.model_copy(update={"quantization": "none"})
    assert ask("llama-3-8b", "a100-80", goal="infer", context=4096, concurrency=most, fixed=same).verdict == "fits"
    assert ask("llama-3-8b", "a100-80", goal="infer", context=4096, concurrency=most + 1, fixed=same).verdict != "fits"


def test_the_largest_micro_batch_and_context_fit_and_one_more_does_not() -> None:
    fixed = ALONE.model_copy(update={"micro_batch": 4, "gradient_checkpointing": True})
    answer = ask("llama-2-7b", "a100-80", goal="lora", context=2048, batch=4, fixed=fixed)
    micro, context = value(answer, "micro_batch"), value(answer, "context")
    assert isinstance(micro, int)
    assert isinstance(context, int)
    for extra, verdicts in ((0, {"fits"}), (1, {"tight", "exceeds"})):
        more = fixed.model_copy(update={"micro_batch": micro + extra})
        assert (
            ask("llama-2-7b", "a100-80", goal="lora", context=2048, batch=micro + extra, fixed=more).verdict in verdicts
        )
    assert ask("llama-2-7b", "a100-80", goal="lora", context=context, batch=4, fixed=fixed).verdict == "fits"


def test_never_just_no() -> None:
    answer = ask("llama-3-70b", "rtx-4090", goal="full", context=4096)
    assert answer.verdict == "exceeds"
    assert "exceeds" in answer.words
    assert answer.plans, "the nearest miss is shown"
    assert answer.instead
    hardware = value(ask("llama-3-8b", "t4", goal="lora", context=2048), "hardware")
    assert isinstance(hardware, str)
    assert ask("llama-3-8b", hardware, goal="lora", context=2048).verdict == "fits"


def test_what_is_offered_instead_works() -> None:
    answer = ask("llama-2-13b", "rtx-4090", goal="infer", context=4096, fixed=Fixed(quantization="none"))
    assert answer.verdict == "exceeds"
    assert any("nf4" in words for words in answer.instead)
    nf4 = Fixed(quantization="nf4")
    assert ask("llama-2-13b", "rtx-4090", goal="infer", context=4096, fixed=nf4).verdict == "fits"


def test_a_slow_fabric_shows_in_the_communication_share_and_a_warning() -> None:
    slow, fast = (
        ask("gpt-3-175b", f"16x8-a100-80-{fabric}", goal="full", context=2048, batch=128)
        for fabric in ("25gbe", "ib-400")
    )
    assert slow.plans[0].speed.tokens_per_s <= fast.plans[0].speed.tokens_per_s
    many = [p for p in slow.plans if p.nodes > 1]
    assert many, "175 billion parameters need several nodes"
    assert any("Gbps" in warning for p in many for warning in p.warnings)


def test_earlier_runs_move_the_next_plan() -> None:
    request = PlanRequest(model="llama-2-7b", hardware="a100-80", workload=Workload(goal="lora", batch=4))
    shape, fleet = models.shape("llama-2-7b"), clusters.fleet("a100-80")
    plain = plan(request, shape, fleet).plans[0]
    key = method_key("lora", plain.method)
    seen = [Observation("a100-80", key, 100, 110, 1.0, 2.0) for _ in range(5)]
    calibrated = plan(request, shape, fleet, DEFAULT_RULES, fit(seen)).plans[0]
    assert calibrated.calibrated is not None
    assert "5 runs" in calibrated.calibrated.words
    assert calibrated.memory.expected > plain.memory.expected or calibrated.method != plain.method
    assert calibrated.speed.tokens_per_s < plain.speed.tokens_per_s


def test_rules_are_settings() -> None:
    strict = Rules(memory_buffer=0.9)
    assert ask("llama-2-7b", "a100-80", goal="lora", context=1024, fixed=ALONE).verdict == "fits"
    assert ask("llama-2-7b", "a100-80", goal="lora", context=1024, fixed=ALONE, rules=strict).verdict != "fits"


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(["llama-3-8b", "qwen-2.5-0.5b", "mixtral-8x7b", "gpt-2", "smollm2-135m"]),
    hardware=st.sampled_from(["a100-80", "t4", "cpu", "4xrtx-4090", "2x8-a100-80-25gbe"]),
    goal=st.sampled_from(["infer", "lora", "qlora", "full"]),
    context=st.integers(1, 2_000_000),
    batch=st.integers(1, 10_000),
    concurrency=st.integers(1, 100_000),
    fixed=st.builds(
        Fixed,
        zero_stage=st.sampled_from([None, 0, 2, 3]),
        micro_batch=st.sampled_from([None, 1, 3, 64]),
        tensor_parallel=st.sampled_from([None, 1, 3, 8]),
        attention=st.sampled_from([None, "eager", "flash"]),
    ),
)
def test_any_question_gets_an_answer(
    model: str, hardware: str, goal: str, context: int, batch: int, concurrency: int, fixed: Fixed
) -> None:
    answer = ask(model, hardware, goal=goal, context=context, batch=batch, concurrency=concurrency, fixed=fixed)
    assert answer.words
    most = clusters.fleet(hardware).devices
    for each in answer.plans:
        assert each.method.devices <= most
        assert each.memory.capacity > 0
    if answer.verdict != "fits":
        assert answer.instead
