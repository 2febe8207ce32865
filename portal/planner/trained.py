"""Which parameters of a model a workload trains, and how many numbers they are, found by Transformers' names.

Sources: LoRA (Hu et al. 2021, arXiv:2106.09685). What gets an adapter is PEFT 0.21's and the runtime's doing, names are
Transformers 5.24's. Knows no methods, devices or bytes.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from math import prod

from portal.planner.shapes import ModelShape, Tensor
from workers.contract.layers import is_pattern, listed, meets

ROOTS: dict[str, tuple[str, str]] = {
    "bloom": ("transformer.", "h"),
    "falcon": ("transformer.", "h"),
    "gpt2": ("transformer.", "h"),
    "gpt_neox": ("gpt_neox.", "layers"),
    "opt": ("model.decoder.", "layers"),
}
"""Family → what its names begin with, and how its list of layers is called, where that isn't as in Llama."""
FUSED = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
"""An expert's layer → the parameter that holds it for all experts of a model's layer."""

CONVERTED = ("deepseek_v2", "deepseek_v3", "glm4_moe", "mixtral", "qwen3_moe")
"""Families whose MLPs' names PEFT takes for those of the experts: for 'all-linear' the router gets an adapter too and
the experts' gate and up one of twice the rank, while dense MLPs and shared experts get none."""


def names(shape: ModelShape, tensor: Tensor) -> tuple[str, ...]:
    """What Transformers calls the parameters that the tensor is or has a part in: one for each layer it occurs in."""
    root, layers = ROOTS.get(shape.family, ("model.", "layers"))
    if not tensor.at:
        return (tensor.name if tensor.role == "head" else f"{root}{tensor.name}",)
    inner = tensor.name.removeprefix("layers.")
    if tensor.role == "expert":
        experts, product, kind = inner.rsplit(".", 2)
        inner = f"{experts}.{FUSED[product]}{'_bias' if kind == 'bias' else ''}"
    return tuple(f"{root}{layers}.{number}.{inner}" for number in tensor.at)


@lru_cache(maxsize=1024)
def whole(shape: ModelShape, layers: str) -> tuple[Tensor, ...]:
    """The tensors that are trained themselves: all for '', else those that the names and patterns meet. An unknown
    family may have other names than it is planned with; where none meets, all count."""
    if not layers:
        return shape.tensors
    patterns = listed(layers)
    found = _met(shape, shape.tensors, lambda name: any(meets(name, each) for each in patterns))
    return found or (shape.tensors if shape.assumed else ())


@lru_cache(maxsize=1024)
def lowest(shape: ModelShape, layers: str) -> int:
    """Number of the first layer that a gradient has to reach: 0 where something before the layers is trained, the
    depth where only what follows them is."""
    found = whole(shape, layers)
    before = {tensor.name for tensor in takewhile(lambda tensor: not tensor.at, shape.tensors)}
    if any(tensor.name in before for tensor in found):
        return 0
    return min((min(tensor.at) for tensor in found if tensor.at), default=shape.depth)


def trains_head(shape: ModelShape, layers: str) -> bool:
    """Whether the output head, or the embedding that is used as one, is among `whole`."""
    return any(tensor.role == ("embedding" if shape.tied else "head") for tensor in whole(shape, layers))


@lru_cache(maxsize=1024)
def targeted(shape: ModelShape, targets: str) -> tuple[Tensor, ...]:
    """The linear layers that get an adapter: all but the head for 'all-linear', else those named or met by a pattern.
    A mixture's experts are among them by the parameter's name, or as 'experts'; its router only as CONVERTED says."""
    if targets == "all-linear" and shape.family in CONVERTED:
        return tuple(
            tensor
            for tensor in shape.tensors
            if tensor.role in ("attention", "expert", "router") and (tensor.linear or tensor.role == "router")
        )
    linear = tuple(tensor for tensor in shape.tensors if tensor.linear and tensor.role != "head")
    if targets == "all-linear":
        return linear
    wanted = listed(targets)
    return _met(shape, linear, lambda name: any(_adapts(name, each) for each in wanted))


def _adapts(name: str, wanted: str) -> bool:
    """`name`: of a linear layer's weight, or of the parameter that holds all experts'."""
    layer = name.removesuffix(".weight")
    if is_pattern(wanted):
        return meets(layer, wanted)
    return wanted in (layer.split(".")[-2:] if ".experts." in name else layer.split(".")[-1:])


def _met(shape: ModelShape, tensors: tuple[Tensor, ...], wanted: Callable[[str], bool]) -> tuple[Tensor, ...]:
    """Of each tensor what is in the layers whose parameter is wanted."""
    found = []
    for tensor in tensors:
        hits = [place for place, name in enumerate(names(shape, tensor)) if wanted(name)]
        if hits:
            at = tuple(tensor.at[place] for place in hits) if tensor.at else ()
            found.append(replace(tensor, at=at, count=tensor.count * len(hits) // max(1, len(tensor.at))))
    return tuple(found)


@lru_cache(maxsize=1024)
def lora_parameters(shape: ModelShape, rank: int, targets: str) -> int:
    """rank × (in + out) for each targeted layer (arXiv:2106.09685, section 4.1). An expert's gate and up are one tensor
    and share an adapter, so that each counts half of it."""
    twice = targets == "all-linear" and shape.family in CONVERTED
    total = 0
    for tensor in targeted(shape, targets):
        out, into = tensor.shape[-2:]
        joined = tensor.role == "expert" and "down_proj" not in tensor.name
        each = rank * (into + 2 * out) * (2 if twice else 1) if joined else rank * (into + out)
        total += each * tensor.count // (2 if joined else 1)
    return total


@lru_cache(maxsize=1024)
def largest_trained(shape: ModelShape, rank: int, targets: str, layers: str = "") -> int:
    """Elements of the largest trained tensor: of the model's own where `rank` is 0, else of its adapters."""
    if not rank:
        return max((prod(tensor.shape) for tensor in whole(shape, layers)), default=0)
    return max((rank * max(tensor.shape[-2:]) for tensor in targeted(shape, targets)), default=0)
