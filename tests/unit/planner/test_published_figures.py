"""The planner beside figures that others have published, each with its source and how near it must come."""

import os

import pytest

from portal.planner import memory, models
from portal.planner.devices import DEVICES
from portal.planner.request import Method, Workload
from portal.planner.states import weight_bytes
from portal.planner.zero import zero2_needs, zero3_needs

GB, GIB = 10**9, 2**30


def test_llama_2_13b_in_fp32_weighs_52_gb() -> None:
    """13 billion parameters of 4 bytes (Touvron et al. 2023, arXiv:2307.09288), as the guide counts them."""
    split = weight_bytes(models.shape("llama-2-13b"), "none", 4)
    whole = split.layers + split.embedding + split.end
    assert whole / GB == pytest.approx(52, rel=0.01)


@pytest.mark.parametrize(("name", "published_gb"), [("llama-2-7b", 6.9), ("llama-2-13b", 11.3), ("llama-2-70b", 45.0)])
def test_qlora_as_its_paper_measured_it(name: str, published_gb: float) -> None:
    """Dettmers et al. 2023 (arXiv:2305.14314), figure 6: LLaMA 7B, 13B and 65B, one sequence of 512 tokens, rank 64 on
    all linear layers, checkpointed, 32-bit Adam. Llama 2's 70B has 8% more parameters than LLaMA's 65B. Within a
    quarter."""
    workload = Workload(goal="qlora", context=512, batch=1, lora_rank=64)
    method = Method(quantization="nf4", checkpointing=True)
    estimate = memory.estimate(models.shape(name), workload, method, DEVICES["a100-80"])
    assert memory.tensor_bytes(estimate) / GB == pytest.approx(published_gb, rel=0.25)


@pytest.mark.parametrize("tokens", [8192])
def test_llama_3_8b_caches_one_gib_at_8k(tokens: int) -> None:
    """2 × 32 layers × 8 heads × 128 × 2 bytes a token (GQA, arXiv:2305.13245; the model's config)."""
    assert models.shape("llama-3-8b").kv_elements(tokens) * 2 == GIB


def test_gpt_3_keeps_16_bytes_a_parameter() -> None:
    """Mixed-precision Adam: 2 + 2 bytes of weights and gradients, 12 of fp32 copy and moments (Rajbhandari et al. 2020,
    arXiv:1910.02054, section 3.1); here on eight tensor-parallel devices together."""
    shape = models.shape("gpt-3-175b")
    workload, method = Workload(goal="full", context=2048, batch=1), Method(tensor=8, checkpointing=True)
    lines = memory.estimate(shape, workload, method, DEVICES["a100-80"]).lines
    held = sum(line.expected for line in lines if line.name in ("weights", "gradients", "optimizer"))
    assert 8 * held / shape.parameters == pytest.approx(16, rel=0.01)
    assert 16 * shape.parameters / 10**12 == pytest.approx(2.8, rel=0.01)


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-3-70b", "gpt-3-175b"])
@pytest.mark.parametrize(("devices", "nodes"), [(8, 1), (8, 2), (4, 16)])
def test_deepspeeds_own_estimates_to_the_byte(name: str, devices: int, nodes: int) -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    zero2 = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2").estimate_zero2_model_states_mem_needs
    zero3 = pytest.importorskip("deepspeed.runtime.zero.stage3").estimate_zero3_model_states_mem_needs
    shape = models.shape(name)
    total, largest = shape.parameters, shape.layer_parameters
    for offload in (False, True):
        assert zero2_needs(total, devices, nodes, offload) == zero2(total, devices, nodes, offload)
    for offload, parameters in ((False, False), (True, False), (True, True)):
        host, device, _ = zero3(total, largest, devices, nodes, offload, parameters, True)
        assert zero3_needs(total, largest, devices, nodes, offload, parameters) == (host, device)
