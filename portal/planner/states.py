"""Model states: the bytes of weights, adapters, gradients and optimizer on one device.

Knows nothing of activations, nor of what a device has.

Sources: ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054), whose section 3.1 counts mixed-precision Adam at 16 bytes a
parameter; LoRA (Hu et al. 2021, arXiv:2106.09685); QLoRA (Dettmers et al. 2023, arXiv:2305.14314); 8-bit optimizers
(Dettmers et al. 2022, arXiv:2110.02861). What is kept in which number type is PEFT 0.21's, TRL 1.16's, bitsandbytes
0.50's and DeepSpeed 0.19's doing: PEFT keeps adapters in fp32, TRL casts those on quantized weights to bf16, DeepSpeed
trains a flat fp32 copy whatever the weights are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from portal.planner.request import Method, Workload
from portal.planner.shapes import ModelShape, Tensor
from portal.planner.trained import largest_trained, lora_parameters, whole
from workers.contract.checkpoint import Stored

WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a number."""
NF4_BLOCK, NF4_OUTER = 64, 256
"""Weights that share a scale, and scales that share a second one (bitsandbytes' defaults)."""
NF4_TABLES = 4 * (16 + 256 + 1)
"""Bytes beside every nf4 tensor: the 16 values of a weight, the 256 of a scale, and an offset, in fp32."""
PUBLISHED = Stored("gptq", 4, 128)
"""Bits, and weights that share a scale and a zero point, of AWQ and GPTQ as their authors publish models."""
EIGHT_BIT_BLOCK, EIGHT_BIT_LEAST = 256, 4096
"""8-bit optimizers: values that share a scale; a tensor with fewer elements keeps 32-bit states."""


@dataclass(frozen=True)
class Place:
    """The part of the model that one device works on: all of it, or a stage of a pipeline."""

    layers: int
    first: bool = True
    """Has the embedding."""
    last: bool = True
    """Has the final norm, the head and the loss."""
    in_flight: int = 1
    """Micro batches whose activations wait for their backward pass (1F1B, arXiv:2104.04473, section 2.2)."""


@dataclass(frozen=True)
class States:
    """Bytes on the device. `host`: what offloading moves to the memory of the host, for this device."""

    weights: int
    lora: int
    gradients: int
    optimizer: int
    host: int
    trainable: int
    """Trained parameters on the device, before ZeRO shards them."""
    trained_width: int
    """Bytes of a trained parameter as the forward pass sees it."""
    master: bool
    """An fp32 copy is trained beside it."""
    scratch: int
    """What the optimizer's step takes on top while it lasts."""
    largest: int
    """Elements of the largest trained tensor."""


def places(shape: ModelShape, method: Method) -> tuple[Place, ...]:
    """The stages of which one may be the fullest: the first keeps most activations, the last computes the loss."""
    if method.pipeline == 1:
        return (Place(shape.depth),)
    layers = -(-shape.depth // method.pipeline)
    waiting = min(method.pipeline, method.accumulation)
    return Place(layers, last=False, in_flight=waiting), Place(layers, first=False)


def is_quantized(tensor: Tensor, quantization: str) -> bool:
    """Whether it shrinks. Embeddings, norms, biases, routers and the head never do; bitsandbytes (nf4, int8) replaces
    linear layers, and a mixture's experts are no such layers in Transformers 5 but one tensor of all of them."""
    if quantization == "none" or not tensor.linear or tensor.role in ("head", "router"):
        return False
    return tensor.role != "expert" or quantization not in ("nf4", "int8")


def ungrouped(shape: ModelShape, size: int) -> Tensor | None:
    """The first layer that would be quantized and whose inputs aren't groups of `size`."""
    return next((each for each in shape.tensors if is_quantized(each, "gptq") and each.shape[-1] % size), None)


def quantized_bytes(tensor: Tensor, quantization: str, width: int, stored: Stored | None = None) -> int:
    """Bytes of one linear layer's weight with its scales; `width`: bytes of a number that isn't quantized; `stored`:
    how a checkpoint has it."""
    elements = prod(tensor.shape)
    if quantization == "nf4":
        scales = -(-elements // NF4_BLOCK)
        return elements // 2 + scales + 4 * -(-scales // NF4_OUTER) + NF4_TABLES
    if quantization in ("awq", "gptq"):
        lies = stored or PUBLISHED
        groups = -(-elements // lies.group)
        return -(-elements * lies.bits // 8) + groups * 2 + -(-groups * lies.bits // 8)
    if quantization == "int8":
        return elements + 4 * tensor.shape[0]
    if quantization == "fp8":
        return elements + 4
    return elements * width


@dataclass(frozen=True)
class Split:
    """A sum over the model's tensors by where they lie."""

    layers: int
    embedding: int
    end: int
    """Final norm, head, and what else there is."""

    def at(self, place: Place, depth: int, tied: bool) -> int:
        """What the place has of it; the last stage of a pipeline copies a tied embedding."""
        total = -(-self.layers * place.layers // depth)
        if place.first or (place.last and tied):
            total += self.embedding
        return total + (self.end if place.last else 0)


@lru_cache(maxsize=1024)
def weight_bytes(shape: ModelShape, quantization: str, width: int) -> Split:
    """The weights as they lie in memory."""
    return _split(
        shape.tensors,
        lambda tensor: (
            tensor.count
            * (
                quantized_bytes(tensor, quantization, width, shape.stored)
                if is_quantized(tensor, quantization)
                else prod(tensor.shape) * width
            )
        ),
    )


@lru_cache(maxsize=256)
def parameters(shape: ModelShape, layers: str = "") -> Split:
    """Every parameter once, or those of the named layers."""
    return _split(whole(shape, layers), lambda tensor: tensor.parameters)


def _split(tensors: tuple[Tensor, ...], size: Callable[[Tensor], int]) -> Split:
    layers = sum(size(tensor) for tensor in tensors if in_layer(tensor))
    embedding = sum(size(tensor) for tensor in tensors if tensor.role in ("embedding", "position"))
    return Split(layers, embedding, sum(map(size, tensors)) - layers - embedding)


def in_layer(tensor: Tensor) -> bool:
    """Whether it belongs to a transformer layer."""
    return tensor.name.startswith("layers.")


def states(shape: ModelShape, workload: Workload, method: Method, place: Place, foreach: bool) -> States:
    """What the goal keeps between steps, split and sharded as the method says.

    `foreach`: DeepSpeed's AdamW works on all tensors at once, as it does on a GPU, and so needs room for the square
    roots of all second moments; else for two copies of the largest tensor's. PyTorch's fused kernel, which a fine-tune
    without DeepSpeed uses, needs none.
    """
    width = WIDTH[method.precision]
    depth, split, data, stage = shape.depth, method.tensor, method.data, method.zero_stage
    weights = -(-weight_bytes(shape, method.quantization, width).at(place, depth, shape.tied) // split)
    if workload.preference and workload.goal == "full":
        weights *= 2  # the model as it was stays beside the trained one; of adapters it is the base
    if workload.goal == "infer":
        return States(weights, 0, 0, 0, 0, 0, width, False, 0, 0)
    full = workload.goal == "full"
    rank = 0 if full else workload.lora_rank
    if full:
        trainable = parameters(shape, workload.layers).at(place, depth, shape.tied)
    else:
        trainable = -(-lora_parameters(shape, rank, workload.lora_targets) * place.layers // depth)
    trainable = -(-trainable // split)
    largest = -(-largest_trained(shape, rank, workload.lora_targets, workload.layers) // split)
    trained_width = width if full or stage else 2 if method.quantization != "none" else 4
    # fp16 needs an fp32 copy to train (GradScaler can't unscale fp16 gradients); Megatron's splits keep one too.
    master = stage > 0 or (full and width == 2 and (method.precision == "fp16" or split * method.pipeline > 1))
    gradients = trainable * trained_width
    optimizer = _optimizer_bytes(trainable, method.optimizer, 4 if master else trained_width) + master * 4 * trainable
    lora = 0 if full else trainable * trained_width
    shards = data if stage else 1
    if method.optimizer != "adamw" or not (stage or method.pipeline > 1):
        scratch = 0
    elif foreach:
        scratch = trainable // shards * (4 if master else trained_width)
    else:
        scratch = 2 * min(trainable // shards, largest) * (4 if master else trained_width)
    host = 0
    if stage >= 1:
        optimizer = -(-optimizer // data)
    if stage >= 2:
        gradients = -(-gradients // data)
    if stage == 3:
        weights, lora = -(-weights // data), -(-lora // data)
    if method.offload_optimizer:
        host, optimizer, scratch = optimizer + scratch, 0, 0
        if stage >= 2:
            host, gradients = host + gradients, 0
    if method.offload_parameters:
        host, weights, lora = host + weights + lora, 0, 0
    return States(weights, lora, gradients, optimizer, host, trainable, trained_width, master, scratch, largest)


def _optimizer_bytes(trained: int, optimizer: str, width: int) -> int:
    """Two moments a parameter: in its number type, or in 8 bits with an fp32 scale a block."""
    if optimizer == "adamw":
        return 2 * trained * width
    return 2 * (trained + 4 * -(-trained // EIGHT_BIT_BLOCK))
