"""What a token costs a model: floating-point operations and bytes moved, counted from its shape and cached.

Whole-model figures, before anything is split over devices. Knows no devices and no seconds.

Sources: 2 FLOPs a parameter a token forward and twice that backward, half of it for inputs and half for weights
(Kaplan et al. 2020, arXiv:2001.08361, section 2.1); attention's two products from Narayanan et al. 2021
(arXiv:2104.04473, appendix), halved by the causal mask where the kernel skips what it hides (FlashAttention-2,
arXiv:2307.08691, section 3.1).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from portal.planner.request import Method, Workload
from portal.planner.shapes import Attention, ModelShape, Tensor
from portal.planner.states import WIDTH, quantized_bytes
from portal.planner.trained import lora_parameters, lowest, trains_head, whole


@dataclass(frozen=True)
class Work:
    """One model at one context length, stored one way. Parameters, FLOPs and bytes."""

    linear: int
    """Parameters of linear layers, without the head, that a token is multiplied with: of the experts its own only."""
    head: int
    """Of the output head, a tied one too; 0 for a model without logits."""
    trained: int
    """Parameters that are trained: all, some layers', or the adapters'; 0 when serving."""
    tuned: int
    """Of `linear` those that are trained themselves."""
    tuned_head: bool
    """Whether the output head is."""
    reach: float
    """Share of the layers that a gradient passes."""
    adapters: int
    attention_flops: float
    """Forward, over all layers, of one sequence read at once."""
    scores: float
    """Elements of one sequence's score matrices over all layers."""
    decode_flops: float
    """Of attention, for one new token after a full context."""
    kv_elements: int
    """In the KV cache of one sequence of a full context."""
    kv_parts: int
    """Devices that a layer's KV cache can be split over: its key-value heads; MLA's latent can't be."""
    dense_bytes: int
    """Weights read whatever the batch: linear layers, norms and the head, not the embedding's other rows."""
    expert_bytes: int
    """Weights of all routed experts."""
    chosen: float
    """Share of the routed experts that one token is sent to."""
    plain_bytes: int
    """All of these weights when unpacked to the precision."""
    depth: int
    """Transformer layers."""

    @property
    def weight_bytes(self) -> int:
        return self.dense_bytes + self.expert_bytes

    def read_bytes(self, tokens: int) -> float:
        """Weights that a pass over `tokens` reads; each chooses its experts by itself, 1 - (1 - k/E)^tokens of all."""
        return self.dense_bytes + self.expert_bytes * (1 - (1 - self.chosen) ** tokens if self.expert_bytes else 0)


def work(shape: ModelShape, workload: Workload, method: Method) -> Work:
    """The figures of a workload done that way."""
    rank = workload.lora_rank if workload.goal in ("lora", "qlora") else 0
    return _work(
        shape,
        workload.context,
        workload.layers if workload.goal == "full" else None,
        rank,
        workload.lora_targets if rank else "",
        method.quantization,
        WIDTH[method.precision],
        method.attention != "eager",
    )


@lru_cache(maxsize=4096)
def _work(
    shape: ModelShape,
    context: int,
    layers: str | None,
    lora_rank: int,
    lora_targets: str,
    quantization: str,
    width: int,
    skips_masked: bool,
) -> Work:
    chosen = _chosen(shape)
    linear = 0.0
    dense = experts = plain = 0
    for tensor in shape.tensors:
        if tensor.linear and tensor.role != "head":
            linear += tensor.parameters * (chosen if tensor.role == "expert" else 1)
        if tensor.role in ("embedding", "position"):
            continue
        stored = tensor.count * _stored(shape, tensor, quantization, width)
        plain += tensor.parameters * width
        if tensor.role == "expert":
            experts += stored
        else:
            dense += stored
    head = shape.vocab * shape.hidden if shape.logits else 0
    if head and shape.tied:
        dense, plain = dense + head * width, plain + head * width
    adapters = lora_parameters(shape, lora_rank, lora_targets) if lora_rank else 0
    kinds = [(layer.count, layer.attention) for layer in shape.layers]
    trained = whole(shape, layers) if layers is not None else ()
    tuned = sum(t.parameters * (chosen if t.role == "expert" else 1) for t in trained if t.linear and t.role != "head")
    return Work(
        linear=round(linear),
        head=head,
        trained=sum(tensor.parameters for tensor in trained) or adapters,
        tuned=round(tuned),
        tuned_head=bool(trained) and trains_head(shape, layers or ""),
        reach=1 - lowest(shape, layers or "") / shape.depth,
        adapters=adapters,
        attention_flops=sum(n * _square(each, context, shape.causal, skips_masked) for n, each in kinds),
        scores=sum(float(n) * each.heads * context * context for n, each in kinds),
        decode_flops=sum(n * _row(each, context) for n, each in kinds),
        kv_elements=shape.kv_elements(context),
        kv_parts=1 if any(each.kv_rank is not None for _, each in kinds) else shape.kv_heads,
        dense_bytes=dense,
        expert_bytes=experts,
        chosen=chosen,
        plain_bytes=plain,
        depth=shape.depth,
    )


def _square(attention: Attention, tokens: int, causal: bool, skips_masked: bool) -> float:
    """FLOPs of one layer's two products for a sequence read at once: all pairs, or those that the mask leaves."""
    pairs = float(tokens) * tokens
    if skips_masked:
        seen = min(attention.window or tokens, tokens)
        pairs = tokens * seen - seen * seen / 2 if causal else float(tokens) * seen
    return 2 * attention.heads * (attention.head_dim + attention.value_dim) * pairs


def _row(attention: Attention, context: int) -> float:
    """FLOPs of one layer's two products for one token; MLA multiplies its latent (arXiv:2405.04434, section 2.1)."""
    width = attention.head_dim + attention.value_dim
    if attention.kv_rank is not None:
        width = 2 * attention.kv_rank + (attention.rope_dim or 0)
    return 2.0 * attention.heads * width * min(attention.window or context, context)


def _chosen(shape: ModelShape) -> float:
    experts = max(layer.mlp.experts for layer in shape.layers)
    return min(1.0, max(layer.mlp.experts_per_token for layer in shape.layers) / experts) if experts else 1.0


def _stored(shape: ModelShape, tensor: Tensor, quantization: str, width: int) -> int:
    """Bytes of one such tensor as it lies in memory."""
    if quantization != "none" and tensor.linear and tensor.role not in ("head", "router"):
        return quantized_bytes(tensor, quantization, width, shape.stored)
    return prod(tensor.shape) * width
