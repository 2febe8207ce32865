"""Model states: the bytes of weights, adapters, gradients and optimizer on the fullest device.

Knows nothing of activations, nor of what a device has.

Sources: ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054) for the stages; mixed-precision Adam at 16 bytes a parameter
is theirs, section 3.1; LoRA (Hu et al. 2021); QLoRA with double quantization (Dettmers et al. 2023, section 3);
8-bit optimizers (Dettmers et al. 2022, arXiv:2110.02861).
"""

from dataclasses import dataclass
from math import prod

from portal.planner.request import Method, Workload
from portal.planner.shapes import ModelShape, Tensor

WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a number."""
NF4_BLOCK, NF4_OUTER = 64, 256
"""Weights that share a scale, and scales that share a second one (bitsandbytes' defaults)."""
GROUP = 128
"""Weights that share a scale and a zero point in AWQ and GPTQ, as their authors publish models."""


@dataclass(frozen=True)
class States:
    """Bytes on the fullest device. `host`: what offloading moves to the memory of the host, for this device."""

    weights: int
    lora: int
    gradients: int
    optimizer: int
    host: int
    trainable: int
    """Trained parameters on the device, before ZeRO."""
    trained_width: int
    """Bytes of one trained parameter."""
    mixed: bool
    """An fp32 master copy is kept beside 16-bit weights (DeepSpeed), instead of training the weights as they are."""


def quantized_bytes(tensor: Tensor, quantization: str, width: int) -> int:
    """Bytes of one linear layer's weight with its scales."""
    elements = prod(tensor.shape)
    if quantization == "nf4":
        scales = -(-elements // NF4_BLOCK)
        return elements // 2 + scales + 4 * -(-scales // NF4_OUTER)
    if quantization in ("awq", "gptq"):
        groups = -(-elements // GROUP)
        return elements // 2 + groups * (width + 1)
    if quantization == "int8":
        return elements + 4 * tensor.shape[0]
    if quantization == "fp8":
        return elements + 4
    return elements * width


def weight_bytes(shape: ModelShape, quantization: str, width: int) -> tuple[int, int]:
    """(quantized, kept whole): embeddings, norms, biases and the output head are never quantized."""
    small = whole = 0
    for tensor in shape.tensors:
        if quantization != "none" and tensor.linear and tensor.role not in ("head", "router"):
            small += tensor.count * quantized_bytes(tensor, quantization, width)
        else:
            whole += tensor.parameters * width
    return small, whole


def targeted(shape: ModelShape, targets: str) -> list[Tensor]:
    """The linear layers that get an adapter: all but the head for 'all-linear', else those named."""
    linear = [tensor for tensor in shape.tensors if tensor.linear and tensor.role != "head"]
    if targets == "all-linear":
        return linear
    names = {name.strip() for name in targets.split(",")}
    return [tensor for tensor in linear if names & set(tensor.name.split("."))]


def lora_parameters(shape: ModelShape, rank: int, targets: str) -> int:
    """rank × (in + out) for each targeted layer (Hu et al. 2021, section 4.1)."""
    return sum(rank * sum(tensor.shape[-2:]) * tensor.count for tensor in targeted(shape, targets))


def states(shape: ModelShape, workload: Workload, method: Method) -> States:
    """What the goal keeps between steps, sharded as the method says."""
    width = WIDTH[method.precision]
    split = method.tensor * method.pipeline
    small, whole = weight_bytes(shape, method.quantization, width)
    weights = -(-(small + whole) // split)
    if workload.goal == "infer":
        return States(weights, 0, 0, 0, 0, 0, width, False)
    full = workload.goal == "full"
    trainable = shape.parameters if full else lora_parameters(shape, workload.lora_rank, workload.lora_targets)
    trainable = -(-trainable // split)
    mixed = width == 2 and (method.zero_stage > 0 or split > 1) and (full or method.zero_stage == 3)
    trained_width = width if full or method.zero_stage == 3 else 2 if method.quantization != "none" else 4
    moments = {"adamw": 8 if mixed else 2 * trained_width}.get(method.optimizer, 2)
    optimizer = trainable * (moments + (4 if mixed else 0))
    gradients = trainable * trained_width
    lora = 0 if full else trainable * trained_width
    stage, data = method.zero_stage, method.data
    optimizer = -(-optimizer // data) if stage >= 1 else optimizer
    gradients = -(-gradients // data) if stage >= 2 else gradients
    if stage == 3:
        weights, lora = -(-weights // data), -(-lora // data)
    host = 0
    if method.offload_optimizer:
        host, optimizer = host + optimizer, 0
        if stage >= 2:
            host, gradients = host + gradients, 0
    if method.offload_parameters:
        host, weights, lora = host + weights + lora, 0, 0
    return States(weights, lora, gradients, optimizer, host, trainable, trained_width, mixed)
