"""Which combinations of model, workload, method and device can't work, each in a sentence with what would.

Rules of the software and the devices, not of size: portal.planner.memory says what fits. Knows no fleets.

Sources: DeepSpeed's documentation (ZeRO 2 and 3 can't be used with its pipeline; parameters are offloaded by ZeRO 3
only); PEFT's page on DeepSpeed and bitsandbytes, and bitsandbytes issue 1451, for quantized weights under ZeRO 3;
bitsandbytes' and vLLM's tables of supported hardware; FlashAttention-2's README.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal

from portal.planner.hardware import DeviceSpec
from portal.planner.request import Method, Workload
from portal.planner.shapes import ModelShape
from portal.planner.trained import targeted, whole

FLASH_CAPABILITY, FLASH_HEAD = 8.0, 256
"""Least CUDA capability and widest head of FlashAttention-2."""
AWQ_CAPABILITY = INT8_CAPABILITY = 7.5
"""Least CUDA capability of AWQ's kernels and of LLM.int8()'s."""
MOST_TENSOR = 64
"""Degrees tried when naming those that would do."""
TITLES = {"nf4": "nf4", "int8": "8-bit", "awq": "AWQ", "gptq": "GPTQ", "fp8": "fp8"}


def impossible(shape: ModelShape, workload: Workload, method: Method, device: DeviceSpec) -> str | None:
    """Why the combination can't work and what would, or None when it can."""
    return next(_reasons(shape, workload, method, device), None)


def _reasons(shape: ModelShape, workload: Workload, method: Method, device: DeviceSpec) -> Iterator[str]:
    yield from _workload(shape, workload)
    yield from (sentence for _, sentence in uneven(shape, method.tensor, method.pipeline))
    yield from _numbers(shape, method, device)
    yield from _stored(shape, workload, method)
    yield from _quantized(workload, method, device)
    if workload.goal != "infer":
        yield from _sharded(method, device)
        yield from _batch(workload, method)


def _workload(shape: ModelShape, workload: Workload) -> Iterator[str]:
    if workload.context > shape.context:
        yield (
            f"A context of {workload.context:,} tokens is beyond the {shape.context:,} that {shape.name} was made for; "
            f"use at most {shape.context:,}, or a config with rope scaling."
        )
    if workload.goal == "infer" and not shape.causal:
        yield f"{shape.name} is an encoder and generates nothing; train it, or serve a decoder."
    if workload.goal in ("lora", "qlora") and workload.lora_targets != "all-linear":
        known = _targets(shape, workload.lora_targets)
        if known is not None:
            yield (
                f"None of the LoRA targets {workload.lora_targets!r} is a linear layer of {shape.name}; use all-linear "
                f"or some of {known}."
            )
    if workload.layers and not whole(shape, workload.layers):
        yield (
            f"None of the trained layers {workload.layers!r} is one of {shape.name}; name some of its {shape.depth}, "
            f"e.g. layers.{shape.depth - 1}.*."
        )


@lru_cache(maxsize=256)
def _targets(shape: ModelShape, targets: str) -> str | None:
    """None when the targets name some layer, else the layers they could name."""
    if targeted(shape, targets):
        return None
    return ", ".join(
        sorted({tensor.name.split(".")[-2] for tensor in shape.tensors if tensor.linear and tensor.role != "head"})
    )


def uneven(shape: ModelShape, tensor: int, pipeline: int) -> Iterator[tuple[Literal["tensor", "pipeline"], str]]:
    """Which of the two degrees the model can't be split by, and why."""
    if pipeline > shape.depth:
        yield (
            "pipeline",
            f"{pipeline} pipeline stages are more than the {shape.depth} layers of {shape.name}; use at most "
            f"{shape.depth}.",
        )
    if tensor == 1:
        return
    rules: tuple[tuple[Callable[[ModelShape, int], bool], str], ...] = (
        (_splits_heads, f"the {shape.heads} attention heads"),
        (_splits_kv_heads, f"the {shape.kv_heads} key-value heads"),
        (_splits_mlp, f"the MLP of {shape.layers[0].mlp.width:,}"),
    )
    for allows, what in rules:
        if not allows(shape, tensor):
            works = ", ".join(str(degree) for degree in range(1, MOST_TENSOR + 1) if _splits(shape, degree))
            yield "tensor", f"{tensor} tensor-parallel devices can't share {what} of {shape.name} evenly; use {works}."


def _splits(shape: ModelShape, degree: int) -> bool:
    return _splits_heads(shape, degree) and _splits_kv_heads(shape, degree) and _splits_mlp(shape, degree)


def _splits_heads(shape: ModelShape, degree: int) -> bool:
    return all(layer.attention.heads % degree == 0 for layer in shape.layers)


def _splits_kv_heads(shape: ModelShape, degree: int) -> bool:
    """Each device has whole key-value heads, or several devices copies of one; MLA's latent is copied anyway."""
    return all(
        layer.attention.kv_rank is not None
        or layer.attention.kv_heads % degree == 0
        or degree % layer.attention.kv_heads == 0
        for layer in shape.layers
    )


def _splits_mlp(shape: ModelShape, degree: int) -> bool:
    return all(layer.mlp.width % degree == 0 and layer.mlp.shared_width % degree == 0 for layer in shape.layers)


def _numbers(shape: ModelShape, method: Method, device: DeviceSpec) -> Iterator[str]:
    if not device.has(method.precision):
        usable = [number for number in ("bf16", "fp16", "fp32") if device.has(number)]
        if device.kind == "cpu":
            usable = ["fp32"]
        yield f"{device.title} doesn't compute in {method.precision}; use {' or '.join(usable)}."
    if method.attention != "flash":
        return
    widest = max(layer.attention.head_dim for layer in shape.layers)
    if device.kind == "cpu" or (device.capability is not None and device.capability < FLASH_CAPABILITY):
        yield f"FlashAttention-2 needs a GPU of CUDA capability {FLASH_CAPABILITY} (Ampere) or later; use sdpa."
    elif method.precision == "fp32":
        yield "FlashAttention-2 computes in bf16 or fp16 only; use one of these, or sdpa."
    elif widest > FLASH_HEAD:
        yield f"FlashAttention-2 takes heads of up to {FLASH_HEAD}, {shape.name} has {widest}; use sdpa."


def _stored(shape: ModelShape, workload: Workload, method: Method) -> Iterator[str]:
    if shape.stored is None:
        return
    title = TITLES[shape.stored.layout]
    if workload.goal != "infer":
        yield f"{shape.name} has {title} weights, which are for serving; train the model that they were made of."
    elif method.quantization != shape.stored.layout:
        yield f"{shape.name} has {title} weights already; use the quantization none, or the model they were made of."


def _quantized(workload: Workload, method: Method, device: DeviceSpec) -> Iterator[str]:
    quantization, goal = method.quantization, workload.goal
    if goal == "qlora" and quantization == "none":
        yield "QLoRA trains on quantized weights; use nf4 or int8, or the goal lora."
    if quantization == "none":
        return
    title = TITLES[quantization]
    if goal == "full":
        yield f"{title} weights can't be trained; use none, or the goal qlora."
    if goal == "lora":
        yield f"LoRA on {title} weights is QLoRA; use the goal qlora, or the quantization none."
    if goal == "qlora" and quantization in ("awq", "gptq", "fp8"):
        yield f"{title} weights are for serving; train on nf4 or int8."
    if goal == "qlora" and method.tensor * method.pipeline > 1:
        yield "bitsandbytes' weights aren't split over devices in training; use data parallelism, with ZeRO if need be."
    if quantization == "fp8" and not device.has("fp8"):
        yield f"{device.title} has no fp8; use int8, or a device of CUDA capability 8.9 (L4, RTX 4090, H100) or later."
    if quantization == "awq" and device.kind == "cpu":
        yield "AWQ weights need a GPU; use nf4, int8 or GPTQ on a CPU."
    if device.kind != "cuda" or device.capability is None:
        return
    if quantization == "awq" and device.capability < AWQ_CAPABILITY:
        yield f"AWQ needs CUDA capability {AWQ_CAPABILITY}, {device.title} has {device.capability}; use nf4 or GPTQ."
    if quantization == "int8" and device.capability < INT8_CAPABILITY:
        yield f"LLM.int8() needs CUDA capability {INT8_CAPABILITY}, {device.title} has {device.capability}; use nf4."


def _sharded(method: Method, device: DeviceSpec) -> Iterator[str]:
    """What ZeRO, offload and optimizers can't be combined with."""
    stage = method.zero_stage
    if method.pipeline > 1 and stage >= 2:
        yield f"DeepSpeed's pipeline works with ZeRO 0 and 1, not ZeRO {stage}; use ZeRO 1, or no pipeline."
    if method.offload_parameters and stage != 3:
        yield f"Parameters are offloaded by ZeRO 3 only, not ZeRO {stage}; use ZeRO 3, or offload the optimizer alone."
    if method.offload_optimizer and stage == 0:
        yield "Offloading the optimizer needs ZeRO; use ZeRO 1 or more."
    if method.quantization == "int8" and stage == 3:
        yield "8-bit weights lose their values under ZeRO 3 (bitsandbytes issue 1451); use nf4, or ZeRO 2."
    if method.quantization != "none" and method.offload_parameters:
        yield "Quantized weights can't be offloaded by ZeRO 3; use LoRA without quantization, or no parameter offload."
    if device.kind != "cpu":
        return
    if method.offload_optimizer or method.offload_parameters:
        yield "A CPU's memory is the host's already; offloading from it frees nothing."
    if method.optimizer != "adamw":
        yield "bitsandbytes' 8-bit optimizers need a GPU; use adamw."


def _batch(workload: Workload, method: Method) -> Iterator[str]:
    at_once = method.data * method.micro_batch
    if workload.batch % at_once:
        yield (
            f"A global batch of {workload.batch:,} can't be made of {method.data:,} replicas × micro batches of "
            f"{method.micro_batch:,}; use a multiple of {at_once:,}."
        )
    elif workload.batch != at_once * method.accumulation:
        yield (
            f"{method.data:,} replicas × {method.micro_batch:,} sequences × {method.accumulation:,} accumulated aren't "
            f"the global batch of {workload.batch:,}; accumulate {workload.batch // at_once:,}."
        )
