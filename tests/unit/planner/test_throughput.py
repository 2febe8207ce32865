"""Time: formulas against their definitions, and whole estimates against published measurements with their sources."""

import pytest

from portal.planner import clusters, models
from portal.planner.answer import Speed
from portal.planner.devices import DEVICES, FABRICS
from portal.planner.hardware import NodeGroup
from portal.planner.links import Link, Wiring, all_gather_s, all_reduce_s, bubble_share, least_share
from portal.planner.request import Method, Workload
from portal.planner.rules import DEFAULT_RULES, Rules
from portal.planner.throughput import estimate

PLAIN = Link(100e9, 0.0, "a link")


def run(model: str, hardware: str, workload: Workload, method: Method, rules: Rules = DEFAULT_RULES) -> Speed:
    """On all nodes of built-in hardware."""
    fleet = clusters.fleet(hardware)
    group = fleet.groups[0]
    return estimate(models.shape(model), workload, method, group, group.nodes, fleet.fabric, rules)


def full(context: int, batch: int, trained_tokens: int = 0) -> Workload:
    return Workload(goal="full", context=context, batch=batch, trained_tokens=trained_tokens)


def lora(context: int = 2048, batch: int = 8) -> Workload:
    return Workload(goal="lora", context=context, batch=batch)


def serve(context: int, concurrency: int = 1) -> Workload:
    return Workload(goal="infer", context=context, concurrency=concurrency)


def seconds(speed: Speed, name: str) -> float:
    return sum(share.seconds for share in speed.shares if share.name == name)


def words(speed: Speed, name: str) -> str:
    return next(share.words for share in speed.shares if share.name == name)


# Published measurements. `tokens_per_s` over all devices.
@pytest.mark.parametrize(
    ("model", "hardware", "workload", "method", "tokens_per_s"),
    [
        pytest.param(
            "gpt-3-175b",
            "128x8-a100-80-ib-8x200",
            full(2048, 1536),
            Method(tensor=8, pipeline=8, data=16, accumulation=96, checkpointing=True),
            300e9 / (34 * 86400),
            id="Megatron-LM, arXiv:2104.04473, section 5.1: 300 billion tokens in 34 days on 1,024 A100",
        ),
        pytest.param(
            "llama-2-7b",
            "8xa100-80",
            full(2048, 96),
            Method(zero_stage=3, data=8, micro_batch=6, accumulation=2),
            37_130,
            id="MosaicML LLM Foundry, scripts/train/benchmarking: 7b, 2048, 8 x a100_80gb",
        ),
        pytest.param(
            "llama-2-7b",
            "8xh100-80",
            full(2048, 48),
            Method(zero_stage=3, data=8, micro_batch=6),
            85_144,
            id="MosaicML LLM Foundry, scripts/train/benchmarking: 7b, 2048, 8 x h100_80gb, bf16",
        ),
        pytest.param(
            "llama-3-8b",
            "h100-80",
            lora(4096, 32),
            Method(micro_batch=2, accumulation=16),
            12_473,
            id="NVIDIA NeMo AutoModel, performance summary: LoRA of Llama 3 8B on one H100, bf16",
        ),
        pytest.param(
            "llama-2-7b",
            "a100-80",
            lora(1024),
            Method(accumulation=8, checkpointing=True, attention="flash"),
            8 * 1024 / 2.8,
            id="Qwen README, profiling: Qwen-7B LoRA at 1024 on A100, 2.8 s a step of 8",
        ),
        pytest.param(
            "llama-2-7b",
            "a100-80",
            lora(8192),
            Method(accumulation=8, checkpointing=True, attention="flash"),
            8 * 8192 / 21.3,
            id="Qwen README, profiling: Qwen-7B LoRA at 8192 on A100, 21.3 s a step of 8",
        ),
        pytest.param(
            "llama-2-7b",
            "a100-80",
            lora(4096).model_copy(update={"goal": "qlora"}),
            Method(accumulation=8, checkpointing=True, attention="flash", quantization="nf4"),
            8 * 4096 / 11.6,
            id="Qwen README, profiling: Qwen-7B Q-LoRA (4-bit) at 4096 on A100, 11.6 s a step of 8",
        ),
        pytest.param(
            "llama-2-7b", "a100-80", serve(200), Method(), 104.9, id="gpt-fast README: Llama-2-7B, bf16, A100"
        ),
        pytest.param(
            "llama-2-7b",
            "a100-80",
            serve(200),
            Method(quantization="gptq"),
            196.8,
            id="gpt-fast README: the same, 4 bits",
        ),
        pytest.param(
            "llama-2-70b", "8xa100-80", serve(200), Method(tensor=8), 62.5, id="gpt-fast README: Llama-2-70B on 8 A100"
        ),
        pytest.param(
            "mixtral-8x7b",
            "4xa100-80",
            serve(5),
            Method(tensor=4),
            155.35,
            id="gpt-fast README: Mixtral 8x7B on 4 A100",
        ),
    ],
)
def test_published_speeds_hold_within_a_factor_of_1_3(
    model: str, hardware: str, workload: Workload, method: Method, tokens_per_s: float
) -> None:
    assert tokens_per_s / 1.3 < run(model, hardware, workload, method).tokens_per_s < tokens_per_s * 1.3


def test_a_ring_moves_twice_the_buffer_less_one_part() -> None:
    assert all_reduce_s(100e9, 4, PLAIN) == pytest.approx(2 * 3 / 4)
    assert all_gather_s(100e9, 4, PLAIN) == pytest.approx(3 / 4)
    assert all_reduce_s(100e9, 1, PLAIN) == 0


def test_the_bubble_is_that_of_gpipe_and_1f1b() -> None:
    assert bubble_share(4, 12) == pytest.approx(3 / 15)
    assert bubble_share(1, 8) == 0
    speed = run("llama-2-13b", "8xa100-80", full(2048, 16), Method(pipeline=8, accumulation=16))
    assert seconds(speed, "bubble") / (seconds(speed, "compute") + seconds(speed, "memory")) == pytest.approx(7 / 16)


def test_the_rule_of_collectives_grows_from_5_to_12_percent() -> None:
    assert [round(least_share(count, DEFAULT_RULES), 3) for count in (1, 2, 4, 256, 4096)] == [
        0,
        0.05,
        0.06,
        0.12,
        0.12,
    ]
    quick = run("llama-3-8b", "8xh100-80", lora(2048, 8), Method(data=8))
    assert quick.communication_share == pytest.approx(0.07)
    assert "rule" in words(quick, "communication")
    strict = run("llama-3-8b", "8xh100-80", lora(2048, 8), Method(data=8), Rules(nccl_share=0.3, nccl_share_most=0.3))
    assert strict.communication_share == pytest.approx(0.3)


def test_groups_that_cross_nodes_share_the_port_and_those_inside_do_not_use_it() -> None:
    wiring = Wiring(DEVICES["a100-80"], 2, 8, FABRICS["25gbe"])
    assert wiring.link(8, 1).title == "NVLink"
    across = wiring.link(16, 1)
    assert across.title == "Ethernet 25 Gbps"
    assert across.bandwidth < 25e9 / 8
    assert wiring.link(2, 8).bandwidth == pytest.approx(across.bandwidth / 8)


def test_nodes_that_nothing_joins_are_refused() -> None:
    group = NodeGroup("a100-80", DEVICES["a100-80"], 2, 8)
    with pytest.raises(ValueError, match="joined by nothing"):
        estimate(models.shape("llama-2-7b"), lora(2048, 16), Method(data=16), group, 2, None)


def test_parts_add_up_and_their_words_show_the_numbers() -> None:
    method = Method(data=16, zero_stage=2, accumulation=2, checkpointing=True)
    speed = run("llama-2-7b", "2x8-a100-80-25gbe", full(4096, 32), method)
    assert speed.step_s == pytest.approx(sum(share.seconds for share in speed.shares))
    assert speed.tokens_per_s * speed.step_s == pytest.approx(32 * 4096)
    assert speed.communication_share == pytest.approx(seconds(speed, "communication") / speed.step_s)
    assert "8 × 6.48 G parameters × 8,192 tokens" in words(speed, "compute")
    assert "312 TFLOP/s × 0.58" in words(speed, "compute")
    assert "Ethernet 25 Gbps" in words(speed, "communication")


def test_cost_is_price_times_devices_times_time() -> None:
    speed = run("llama-2-7b", "8xa100-80", full(2048, 16, trained_tokens=10**9), Method(data=8, micro_batch=2))
    price = DEVICES["a100-80"].price_per_hour
    assert price is not None
    assert speed.total_s == pytest.approx(1e9 / speed.tokens_per_s)
    assert speed.total_cost == pytest.approx(8 * price * 1e9 / speed.tokens_per_s / 3600)
    assert speed.total_cost is not None
    assert speed.cost_per_million_tokens == pytest.approx(speed.total_cost / 1000)
    assert run("llama-2-7b", "8xa100-80", full(2048, 16), Method(data=8, micro_batch=2)).total_s is None


def test_recomputing_costs_about_a_third() -> None:
    plain, again = (
        run("llama-2-7b", "a100-80", full(2048, 8), Method(micro_batch=8, checkpointing=checkpointing))
        for checkpointing in (False, True)
    )
    assert 1.2 < again.step_s / plain.step_s < 1.4


def test_frozen_weights_take_two_thirds_of_the_arithmetic() -> None:
    trained, frozen = (
        run("llama-2-7b", "a100-80", Workload(goal=goal, context=2048, batch=8, lora_rank=1), Method(micro_batch=8))
        for goal in ("full", "lora")
    )
    ratio = seconds(frozen, "compute") / seconds(trained, "compute")
    assert 4 / 6 < ratio < 4 / 6 / 0.7


def test_eager_attention_costs_more_the_longer_the_context() -> None:
    def ratio(context: int) -> float:
        eager, fused = (
            run("llama-2-7b", "a100-80", lora(context, 1), Method(attention=attention)).step_s
            for attention in ("eager", "sdpa")
        )
        return eager / fused

    assert 1.05 < ratio(1024) < ratio(4096) < ratio(16384)


def test_a_sliding_window_and_chosen_experts_save_arithmetic() -> None:
    dense = run("llama-2-13b", "a100-80", lora(4096, 1), Method())
    mixture = run("mixtral-8x7b", "a100-80", lora(4096, 1), Method())
    assert seconds(mixture, "compute") == pytest.approx(seconds(dense, "compute"), rel=0.1)  # 12.9 of 46.7 billion


def test_zero_3_moves_half_as_much_again_as_zero_2_and_a_slow_fabric_shows() -> None:
    """Rajbhandari et al. 2020, section 7: 2 Ψ a step under ZeRO 2, 3 Ψ under ZeRO 3 (without accumulation)."""
    seen = {
        (stage, fabric): run(
            "llama-2-13b", f"4x8-a100-80-{fabric}", full(512, 32), Method(data=32, zero_stage=stage, checkpointing=True)
        )
        for stage in (2, 3)
        for fabric in ("10gbe", "ib-400")
    }
    two, three = (seconds(seen[stage, "10gbe"], "communication") for stage in (2, 3))
    assert three / two == pytest.approx(1.5, rel=0.05)
    assert seen[3, "10gbe"].communication_share > seen[3, "ib-400"].communication_share
    assert seen[3, "10gbe"].tokens_per_s < seen[3, "ib-400"].tokens_per_s


def test_tensor_parallel_all_reduces_four_times_a_layer() -> None:
    speed = run("llama-2-70b", "8xa100-80", full(4096, 4), Method(tensor=8, accumulation=4))
    assert f"{4 * 80 * 4:,} all-reduces" in words(speed, "communication")
    slower = run("llama-2-70b", "8xa100-80", full(4096, 4), Method(tensor=8, accumulation=4, checkpointing=True))
    assert f"{6 * 80 * 4:,} all-reduces" in words(slower, "communication")


def test_offloading_costs_time_and_says_where() -> None:
    plain = run("llama-2-7b", "a100-80", full(2048, 8), Method(micro_batch=8, zero_stage=2))
    moved = run("llama-2-7b", "a100-80", full(2048, 8), Method(micro_batch=8, zero_stage=2, offload_optimizer=True))
    assert moved.step_s > plain.step_s
    assert "update on the host" in words(moved, "offload")
    both = Method(micro_batch=8, zero_stage=3, offload_optimizer=True, offload_parameters=True)
    assert seconds(run("llama-2-7b", "a100-80", full(2048, 8), both), "offload") > seconds(moved, "offload")


def test_decoding_is_bound_by_bandwidth_and_batching_shares_the_weights() -> None:
    one, many = (run("llama-3-8b", "a100-80", serve(1024, count), Method()) for count in (1, 32))
    assert many.tokens_per_s > 15 * one.tokens_per_s
    assert many.step_s > one.step_s
    assert run("llama-3-8b", "h200", serve(1024), Method()).tokens_per_s > 2 * one.tokens_per_s


def test_reading_the_prompt_takes_as_long_as_its_tokens() -> None:
    short, long = (run("llama-3-8b", "a100-80", serve(context), Method()).ttft_s for context in (1024, 8192))
    assert short is not None
    assert long is not None
    assert 8 < long / short < 10
    assert 0.05 < short < 0.2  # 2 × 7.5 G × 1,024 tokens at half of 312 TFLOP/s


def test_smaller_kv_cache_elements_decode_faster_at_long_contexts() -> None:
    wide, narrow = (
        run("llama-2-7b", "a100-80", serve(4096, 16), Method(kv_cache=kind)).step_s for kind in ("bf16", "int8")
    )
    assert narrow < 0.7 * wide


def test_quantizing_on_a_cpu_saves_no_time() -> None:
    plain, small = (
        run("smollm2-135m", "cpu", serve(256), Method(precision="fp32", kv_cache="fp32", quantization=quantization))
        for quantization in ("none", "nf4")
    )
    assert small.step_s >= plain.step_s


def test_replicas_serve_in_proportion() -> None:
    one = run("llama-3-8b", "a100-80", serve(1024, 8), Method())
    four = run("llama-3-8b", "4xa100-80", serve(1024, 32), Method(data=4))
    assert four.tokens_per_s == pytest.approx(4 * one.tokens_per_s)
    assert four.cost_per_million_tokens == pytest.approx(one.cost_per_million_tokens)
    assert four.communication_share == 0


def test_a_device_that_lacks_the_number_type_is_judged_by_its_fp32() -> None:
    half, brain = (
        run("llama-3.2-1b", "t4", lora(512), Method(precision=number, micro_batch=8)) for number in ("fp16", "bf16")
    )
    assert brain.step_s > 3 * half.step_s
