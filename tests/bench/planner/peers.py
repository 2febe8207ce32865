"""What others publish for the same runs, each formula given its best reading. Bytes; None where it has no answer.

Every formula comes with its fixed overhead of a GPU, as published, and without it, since a CPU has none.
"""

from collections.abc import Callable
from typing import Any

from tests.bench.planner.cases import Case, config

WIDTH = {"fp32": 4, "bf16": 2}
GIB = 2**30
Guess = tuple[float, float]
"""(as published, without the overhead of a GPU)."""


def accelerate(case: Case, facts: dict[str, Any]) -> Guess | None:
    """`accelerate estimate-memory`: the size of the weights to load them, and 4 times that to train them all with Adam.

    It knows no adapters: for those its size to load is nearer than its size to train, so that is taken.
    Source: accelerate 1.15, accelerate/commands/estimate.py, called as it is installed.
    """
    from accelerate.commands.estimate import estimate_training_usage

    total = facts["accelerate_bytes"]
    number = {"fp32": "float32", "bf16": "bfloat16"}[case.precision]
    if case.goal == "full":
        needed = float(max(estimate_training_usage(total, number).values()))
    else:
        shrunk = {"none": 4 / WIDTH[case.precision], "int8": 4.0, "nf4": 8.0}[case.quantization]
        needed = total / shrunk
    return needed, needed


def deepspeed(case: Case, facts: dict[str, Any]) -> Guess | None:
    """`estimate_zero2_model_states_mem_needs` on one device without offload: all parameters count as trained.

    Source: deepspeed 0.19, called as it is installed. Says nothing of serving.
    """
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    if case.goal == "infer":
        return None
    _, needed = estimate_zero2_model_states_mem_needs(facts["parameters"], 1, 1, cpu_offload=False)
    return float(needed), float(needed)


def gpustack(case: Case, facts: dict[str, Any]) -> Guess | None:
    """Weights × 1.2 + 2 GiB. Source: github.com/gpustack/gpustack, gpustack/policies/utils.py, estimate_model_vram."""
    needed = facts["weights"][case.precision, case.quantization] * 1.2
    return needed + 2 * GIB, needed


def unsloth(case: Case, facts: dict[str, Any]) -> Guess | None:
    """Weights + adapters + optimizer + gradients + activations + 1.4 GB of CUDA, with its floors; training only.

    Its numbers are of 16 bits; here they get the width of the run's own, which is nearer.
    Source: github.com/unslothai/unsloth, studio/backend/utils/hardware/VRAM_ESTIMATION.md.
    """
    if case.goal == "infer":
        return None
    made = config(case.model)
    width, full = WIDTH[case.precision], case.goal == "full"
    hidden, layers, middle = made["hidden_size"], made["num_hidden_layers"], made["intermediate_size"]
    keys = hidden // made["num_attention_heads"] * made["num_key_value_heads"]
    quantizable = layers * hidden * (2 * hidden + 2 * keys + 3 * middle)
    other = 2 * hidden * layers + made["vocab_size"] * hidden * (1 if made["tie_word_embeddings"] else 2)
    shrink = 3.6 / 2 * width if case.quantization == "nf4" else 1  # 16 bits / 3.6 with double quantization
    weights = (quantizable / shrink + other) * width
    ends = 4 * hidden + 2 * (hidden + keys) + 3 * (hidden + middle)
    trained = quantizable + other if full else layers * case.lora_rank * ends
    adapters = 0 if full else trained * width
    optimizer = trained * 6
    tokens = case.batch * case.context
    layer = tokens * (hidden + 2 * keys + 2 + 2 * middle) * width * 1.25
    activations = layer * ((2.0 if full else 1.0) if case.checkpointing else layers)
    floor = weights * 0.15
    if not full:
        floor = min(floor, max(activations, optimizer))
    gradients = max(trained * width, floor)
    needed = weights + adapters + optimizer + gradients + activations
    return needed + 1.4e9, needed


PEERS: dict[str, Callable[[Case, dict[str, Any]], Guess | None]] = {
    "accelerate": accelerate,
    "deepspeed": deepspeed,
    "gpustack": gpustack,
    "unsloth": unsloth,
}


def facts(model: str) -> dict[str, Any]:
    """What the formulas are given: Accelerate's own count on an empty model, parameters, bytes of weights."""
    from accelerate.utils import calculate_maximum_sizes
    from torch import device
    from transformers import LlamaConfig, LlamaForCausalLM

    from portal.planner.families import shape_from_config
    from portal.planner.states import weight_bytes

    with device("meta"):
        empty = LlamaForCausalLM(LlamaConfig(**config(model)))
    total, _ = calculate_maximum_sizes(empty)
    shape = shape_from_config(config(model), model)
    weights = {}
    for precision, width in WIDTH.items():
        for quantization in ("none", "nf4", "int8"):
            parts = weight_bytes(shape, quantization, width)
            weights[precision, quantization] = parts.layers + parts.embedding + parts.end
    return {"accelerate_bytes": total, "parameters": shape.parameters, "weights": weights}
