"""What a device holds: the lines, what moves them, and when it is too much."""

from dataclasses import replace
from functools import partial

import pytest

from portal.planner import memory, models
from portal.planner.answer import Memory
from portal.planner.devices import DEVICES
from portal.planner.families import shape_from_config
from portal.planner.hardware import GIB, DeviceSpec
from portal.planner.request import Method, Workload
from portal.planner.rules import Rules
from portal.planner.shapes import ModelShape
from portal.planner.verdict import judge

A100 = DEVICES["a100-80"]
CPU = next(device for device in DEVICES.values() if device.kind == "cpu")
LORA = Workload(goal="lora", context=2048)
FULL = Workload(goal="full", context=2048)


def taken(model: str = "llama-2-7b", workload: Workload = LORA, device: DeviceSpec = A100, **method: object) -> Memory:
    return memory.estimate(models.shape(model), workload, Method(**method), device)  # type: ignore[arg-type]


def line(found: Memory, name: str) -> int:
    return next((each.expected for each in found.lines if each.name == name), 0)


def words(found: Memory, name: str) -> str:
    return next(each.words for each in found.lines if each.name == name)


def test_lines_add_up_and_lie_in_their_bands() -> None:
    for workload in (LORA, FULL, Workload(goal="infer", concurrency=4)):
        found = taken(workload=workload)
        assert found.expected == sum(each.expected for each in found.lines)
        assert found.low <= found.expected <= found.high
        assert all(each.low <= each.expected <= each.high for each in found.lines)
        assert all(each.words.endswith(".") for each in found.lines)


def test_words_show_the_numbers() -> None:
    found = taken()
    assert "6,738,415,616 parameters in bf16" in words(found, "weights")
    assert "39,976,960 trained parameters × 4 bytes" in words(found, "lora")
    assert "2,048 tokens × 32 layers" in words(found, "activations")


def test_tensor_bytes_leave_out_what_is_no_tensor() -> None:
    found = taken()
    assert memory.tensor_bytes(found) == found.expected - line(found, "context") - line(found, "reserve")


def test_a_cpu_that_lays_4_bit_weights_out_anew_takes_what_that_takes() -> None:
    """SmolLM2: 106,168,320 quantized parameters in 210 tensors, the largest of 576 × 1536."""
    serve = Workload(goal="infer", context=128)
    old = taken("smollm2-135m", serve, CPU, quantization="nf4", precision="fp32", kv_cache="fp32")
    wide = replace(CPU, repacks_nf4=True)
    new = taken("smollm2-135m", serve, wide, quantization="nf4", precision="fp32", kv_cache="fp32")
    untouched = taken("smollm2-135m", serve, wide, quantization="int8", precision="fp32", kv_cache="fp32")

    scales = 2 * 106_168_320 // 64 + 64 * 210
    nested = 106_168_320 // 64 + 4 * 106_168_320 // 64 // 256 + 4 * 273 * 210
    assert abs(line(new, "weights") - line(old, "weights") - (scales - nested)) < 4 * 210  # rounding, tensor by tensor
    assert "bf16" in words(new, "weights")
    assert line(new, "activations") > 7 * 576 * 1536 > line(old, "activations")
    assert untouched == taken("smollm2-135m", serve, CPU, quantization="int8", precision="fp32", kv_cache="fp32")


def test_lora_trains_its_adapters_and_full_everything() -> None:
    lora, full = taken(), taken(workload=FULL)
    assert line(lora, "optimizer") == 2 * 4 * 39_976_960
    assert line(full, "optimizer") == 2 * 2 * 6_738_415_616
    assert line(full, "lora") == 0


def test_preference_tuning_takes_two_sequences_a_sample_and_the_model_as_it_was() -> None:
    pairs = taken(workload=LORA.model_copy(update={"preference": True}), micro_batch=2)
    apart = taken(micro_batch=4)
    assert [line(pairs, name) for name in ("weights", "activations")] == [
        line(apart, name) for name in ("weights", "activations")
    ]
    whole = taken(workload=FULL.model_copy(update={"preference": True}))
    assert line(whole, "weights") == 2 * line(taken(workload=FULL), "weights")
    assert "and as they were" in words(whole, "weights")


def test_lora_on_named_layers_takes_less() -> None:
    few = taken(workload=LORA.model_copy(update={"lora_targets": "q_proj,v_proj"}))
    assert line(few, "lora") == 4 * 32 * 2 * 16 * (4096 + 4096)
    assert line(few, "activations") < line(taken(), "activations")


def test_nf4_shrinks_linear_layers_and_nothing_else() -> None:
    plain, small = taken(), taken(workload=Workload(goal="qlora"), quantization="nf4")
    kept = 2 * (2 * 32_000 * 4096 + 65 * 4096)
    assert line(plain, "weights") == 2 * 6_738_415_616
    assert (line(small, "weights") - kept) / 6_476_005_376 == pytest.approx(0.5 + 1 / 64 + 4 / 64 / 256, rel=1e-3)


def test_bitsandbytes_leaves_experts_alone_and_awq_does_not() -> None:
    serve = Workload(goal="infer")
    nf4, awq = (taken("mixtral-8x7b", serve, quantization=name) for name in ("nf4", "awq"))
    assert line(nf4, "weights") > 80 * GIB > 30 * GIB > line(awq, "weights")


def test_8_bit_states_take_a_quarter_of_fp32s_and_paged_ones_may_leave() -> None:
    plain, eight = (
        taken(workload=FULL, precision="fp32"),
        taken(workload=FULL, precision="fp32", optimizer="adamw_8bit"),
    )
    assert line(eight, "optimizer") / line(plain, "optimizer") == pytest.approx(1 / 4, rel=0.02)
    paged = taken(workload=FULL, optimizer="paged_adamw_8bit")
    assert next(each.low for each in paged.lines if each.name == "optimizer") == 0


def test_recomputing_keeps_the_inputs_of_layers_only() -> None:
    plain, again = taken(), taken(checkpointing=True)
    assert line(again, "activations") < line(plain, "activations") / 5


def test_eager_attention_keeps_every_score() -> None:
    gap = line(taken(attention="eager"), "activations") - line(taken(attention="sdpa"), "activations")
    assert gap > 32 * 32 * 2048 * 2048 * 5  # layers × heads × scores in 6 bytes, less what the fused kernel keeps


def test_a_padded_batch_needs_masks_and_flash_attention_does_not() -> None:
    padded = taken(micro_batch=4)
    activations = next(each for each in padded.lines if each.name == "activations")
    assert activations.low < activations.expected
    assert line(taken(micro_batch=4, attention="flash"), "activations") == activations.low
    assert "padded" in activations.words


def test_zero_shards_optimizer_then_gradients_then_weights() -> None:
    stages = [taken(workload=FULL, zero_stage=stage, data=8) for stage in (1, 2, 3)]
    optimizer = 12 * 6_738_415_616 / 8
    assert all(line(found, "optimizer") == pytest.approx(optimizer, rel=1e-6) for found in stages)
    assert line(stages[2], "weights") == pytest.approx(line(stages[1], "weights") / 8, rel=1e-6)
    ends = [
        line(found, "gradients")
        for found in (taken(workload=FULL, zero_stage=s, data=8, accumulation=2) for s in (1, 2))
    ]
    assert ends[1] < ends[0] / 4


def test_offloading_moves_bytes_to_the_host() -> None:
    kept = taken(workload=FULL, zero_stage=3, data=8)
    moved = taken(workload=FULL, zero_stage=3, data=8, offload_optimizer=True, offload_parameters=True)
    assert kept.host_bytes == 0
    assert moved.host_bytes >= 14 * 6_738_415_616
    assert line(moved, "weights") == line(moved, "optimizer") == 0
    assert moved.expected < kept.expected


def test_tensor_and_pipeline_degrees_split_the_model() -> None:
    whole = taken("llama-2-70b", FULL)
    assert line(taken("llama-2-70b", FULL, tensor=8), "weights") == pytest.approx(line(whole, "weights") / 8, rel=1e-6)
    stages = taken("llama-2-70b", FULL, pipeline=8, accumulation=8)
    assert line(whole, "weights") / 8 < line(stages, "weights") < line(whole, "weights") / 7


def test_the_first_stage_of_a_pipeline_keeps_waiting_micro_batches() -> None:
    one, eight = (taken("llama-2-70b", FULL, pipeline=8, accumulation=count) for count in (1, 8))
    assert line(eight, "activations") > 4 * line(one, "activations")


def test_several_devices_hold_buffers() -> None:
    assert line(taken(workload=FULL, data=2), "buffers") > line(taken(workload=FULL), "buffers")
    generous = Rules(nccl_share=0.3, nccl_share_most=0.4)
    held = memory.estimate(models.shape("llama-2-7b"), LORA, Method(data=2), A100, generous)
    assert "30% for collectives between 2 devices" in words(held, "buffers")


@pytest.mark.parametrize(("model", "numbers"), [("llama-2-7b", 32 * 2 * 4096), ("llama-3-8b", 32 * 2 * 1024)])
def test_a_cache_holds_keys_and_values_of_every_layer(model: str, numbers: int) -> None:
    found = taken(model, Workload(goal="infer", context=1000, concurrency=3))
    assert line(found, "kv_cache") == 3 * 1000 * numbers * 2


def test_latent_attention_caches_little() -> None:
    found = taken("deepseek-v3", Workload(goal="infer", context=1000))
    assert line(found, "kv_cache") == 61 * 1000 * (512 + 64) * 2


def test_a_sliding_window_bounds_the_cache() -> None:
    caches = [
        line(taken("mistral-7b", Workload(goal="infer", context=tokens)), "kv_cache") for tokens in (4096, 32_768)
    ]
    assert caches[0] == caches[1]


def test_an_8_bit_cache_has_scales() -> None:
    serve = Workload(goal="infer", context=4096)
    share = line(taken(workload=serve, kv_cache="int8"), "kv_cache") / line(taken(workload=serve), "kv_cache")
    assert 0.5 < share < 0.55


def test_requests_are_shared_by_replicas() -> None:
    serve = Workload(goal="infer", context=1024, concurrency=8)
    assert line(taken(workload=serve, data=4), "kv_cache") == line(taken(workload=serve), "kv_cache") / 4


def test_a_gpu_has_a_context_and_a_workspace_of_its_own() -> None:
    assert line(taken(), "context") > 0
    assert line(taken(device=DEVICES["h100-80"]), "buffers") >= 32 * 2**20
    assert "buffers" not in {each.name for each in taken(device=CPU).lines}


def test_a_triton_kernel_makes_the_loss_cheap() -> None:
    assert line(taken(device=CPU), "logits") > 5 * line(taken(), "logits")


def test_verdicts_follow_the_rules() -> None:
    assert judge(79, 90, 80, 100) == "fits"
    assert judge(81, 90, 80, 100) == "tight"
    assert judge(79, 101, 80, 100) == "tight"
    assert judge(101, 110, 80, 100) == "exceeds"
    loose, strict = (
        memory.estimate(models.shape("llama-2-7b"), FULL, Method(), A100, Rules(memory_buffer=share))
        for share in (0.0, 0.5)
    )
    assert loose.usable == A100.memory_bytes
    assert strict.usable == A100.memory_bytes // 2


def test_serving_keeps_its_own_headroom() -> None:
    assert taken(workload=Workload(goal="infer")).usable == int(A100.memory_bytes * 0.85)
    assert taken().usable == int(A100.memory_bytes * 0.8)


def test_more_is_never_less() -> None:
    more = partial(taken, workload=FULL)
    for name, values in (("micro_batch", (1, 2, 4, 8)), ("accumulation", (1, 2)), ("precision", ("bf16", "fp32"))):
        sizes = [more(**{name: value}).expected for value in values]
        assert sizes == sorted(sizes), name
    contexts = [taken(workload=FULL.model_copy(update={"context": tokens})).expected for tokens in (512, 1024, 2048)]
    assert contexts == sorted(contexts)


def _llama(**changes: object) -> ModelShape:
    sizes = {"model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96}
    rest = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False}
    return shape_from_config({**sizes, **rest, **changes}, "tiny")


def test_one_layer_by_hand() -> None:
    """A full step in fp32 of 10 tokens: all that one layer keeps, counted tensor by tensor."""
    layer = 10 * (
        2 * (64 * 4 + 4)  # inputs of two norms, and a scale a row
        + 2 * 64 * 4  # normalized, before the trained weight
        + 2 * 64 * 4  # inputs of the linear layers
        + 4 * 64 * 4  # queries, keys, values, output
        + 4 * 4  # a sum a head
        + 4 * 96 * 4  # gate, activation, up, product
    )
    end = 10 * 24 + 10 * 2 * 4 * 16  # numbers of tokens; rotary tables
    head = 9 * (64 * 8 + 4) + 9 * (64 * 4 + 24)  # final norm, its output for the tokens that count, and their sums
    held = memory.estimate(_llama(), Workload(goal="full", context=10), Method(precision="fp32"), CPU)
    assert line(held, "activations") == layer + end + head
