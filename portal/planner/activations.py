"""What autograd keeps of a layer between its forward and its backward pass, tensor by tensor.

Knows nothing of states, the loss, or what a device has.

The counting follows Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1), but for what Transformers 5.24's layers
and PEFT 0.21's adapters make PyTorch 2.13 save:
- a norm keeps its input in fp32 (a copy, where the residual stream has 16 bits), and what it multiplies with a trained
  weight;
- a linear layer keeps its input when its own weight is trained, and nothing when it is frozen; an adapter on it keeps
  its input, in a copy of its own for every adapted layer where adapter and stream differ in type, and A's output;
- attention keeps queries, keys and values after the rotary embedding, its output and a sum per row (SDPA and flash;
  Dao et al. 2022, arXiv:2205.14135), or the whole score matrix (eager); for a padded batch SDPA also gets keys and
  values repeated for every query head and a mask of numbers for every layer;
- a gated MLP keeps gate, activation and up, and their product when the down projection is trained;
- an adapted mixture keeps a copy of its experts' weights with the adapters added.
"""

from dataclasses import dataclass
from functools import lru_cache

from portal.planner.request import Method, Workload
from portal.planner.shapes import Layer, ModelShape, Tensor
from portal.planner.states import WIDTH, in_layer
from portal.planner.trained import lora_parameters, targeted

CAPPED = ("gemma2",)
"""Families whose attention scores are capped (arXiv:2408.00118): their hyperbolic tangent is kept too."""
DROPPED = ("bert", "gpt2")
"""Families that drop attention scores and residuals in training (0.1 in their configs): only a GPU's fused kernel does
that without keeping the scores, the mask and their product; elsewhere masks are numbers."""
WRITTEN_OUT = ("codegen", "gpt2", "gpt_neo", "gptj", "phi")
"""Families whose GELU is written out ("gelu_new"): five tensors are kept of it instead of two."""
SUM = 4
"""Bytes of a row's sum or scale, in fp32."""


@dataclass(frozen=True)
class Kept:
    """Of one layer, the average over all. Bytes per token; per token and token of context; per layer."""

    token: float
    pair: float
    fixed: float
    padded_token: float
    """`token` and `pair` when the batch is padded."""
    padded_pair: float
    boundary: int
    """Bytes per token of the layer's input: what recomputing keeps instead."""
    work_token: float
    """On top, while the layer's backward pass is under way."""
    work_pair: float
    first: float
    """Bytes per token that the first layer doesn't keep: no gradient flows into a frozen embedding."""
    parts: tuple[float, float, float]
    """Bytes per token of norms, attention and MLP."""

    def bytes(self, tokens: int, context: int, padded: bool) -> float:
        """Of one layer with `tokens` of sequences of `context`."""
        token, pair = (self.padded_token, self.padded_pair) if padded else (self.token, self.pair)
        return tokens * (token + pair * context) + self.fixed

    def work(self, tokens: int, context: int) -> float:
        return tokens * (self.work_token + self.work_pair * context)


def kept(shape: ModelShape, workload: Workload, method: Method, gpu: bool) -> Kept:
    """What a layer keeps under this method. Elements of heads and MLPs are split by tensor parallelism; norms and the
    residual stream are whole on every device (Korthikanti et al. 2022, section 4.2.1)."""
    full = workload.goal == "full"
    return _kept(
        shape,
        full,
        0 if full else workload.lora_rank,
        "" if full else workload.lora_targets,
        WIDTH[method.precision],
        _adapter_width(workload, method),
        _kernel(shape, method, gpu),
        method.tensor,
        method.checkpointing,
    )


def attention_kernel(shape: ModelShape, method: Method) -> str:
    """The kernel that is really used: where scores are capped, Transformers has no fused one but flash attention."""
    return "eager" if method.attention == "sdpa" and shape.family in CAPPED else method.attention


def _kernel(shape: ModelShape, method: Method, gpu: bool) -> str:
    """As attention_kernel; "dropped" or "plain" where a CPU has no fused kernel for what a GPU has one for."""
    if not gpu and shape.family in DROPPED:
        return "dropped"
    unequal = any(layer.attention.value_dim != layer.attention.head_dim for layer in shape.layers)
    return "plain" if not gpu and unequal and method.attention == "sdpa" else attention_kernel(shape, method)


def padded(method: Method, sequences: int) -> bool:
    """Whether a batch is likely padded: several sequences, of which not all are as long as the longest. Flash
    attention is given the sequences without their padding."""
    return sequences > 1 and method.attention != "flash"


def _adapter_width(workload: Workload, method: Method) -> int:
    """Bytes of a number that an adapter's input is cast to, 0 where it takes the stream's as it is."""
    width = WIDTH[method.precision]
    if workload.goal == "full" or method.zero_stage:
        return 0
    if method.quantization != "none":
        return 0 if method.precision == "bf16" else 2
    return 0 if width == 4 else width


@lru_cache(maxsize=4096)
def _kept(
    shape: ModelShape,
    full: bool,
    rank: int,
    targets: str,
    width: int,
    adapter_width: int,
    attention: str,
    split: int,
    recompute: bool,
) -> Kept:
    depth, hidden = shape.depth, shape.hidden
    adapted = [tensor for tensor in targeted(shape, targets) if in_layer(tensor)] if rank else []
    norms = _norms(shape, full, width, split)
    inputs = _inputs(shape, full, adapted, width, adapter_width, split)
    attending = plain = spread = mlp = pair = plain_pair = sized = 0.0
    for layer in shape.layers:
        share = layer.count / depth
        fused, eager, repeated = _attention(layer, width, split)
        mlp += share * _mlp(shape.family, layer, full, adapted, width, adapter_width, hidden, split)
        sized += share * layer.mlp.active_width / split
        heads = layer.attention.heads / split
        if attention not in ("sdpa", "flash"):
            scores = heads * {"dropped": 12, "plain": 4}.get(attention, 4 if width == 4 else 4 + width)
            scores += heads * width if shape.family in CAPPED else 0
            eager += 4 * heads * (2 * layer.attention.head_dim + layer.attention.value_dim) * (attention == "plain")
            plain, attending = plain + share * eager, attending + share * eager
            pair, plain_pair = pair + share * scores, plain_pair + share * scores
            spread += share * 8 * heads
        else:
            plain, attending = plain + share * fused, attending + share * repeated
            pair += share * width
    low = sum(rank * (adapter_width or width) * t.count for t in adapted if t.role != "expert") / depth
    norms += 2 * width * hidden if attention == "dropped" else 0
    copied = sum(tensor.parameters for tensor in adapted if tensor.role == "expert") * width / depth / split
    casts = 2 * lora_parameters(shape, rank, targets) / depth if adapter_width and width == 2 else 0
    first = 0 if full or recompute else 4 * hidden
    return Kept(
        token=norms + inputs + plain + mlp + low,
        pair=plain_pair,
        fixed=casts + copied,
        padded_token=norms + inputs + attending + mlp + low,
        padded_pair=pair,
        boundary=width * hidden,
        work_token=width * (2 * sized + hidden),
        work_pair=spread,
        first=first,
        parts=(norms, attending + inputs + low, mlp),
    )


def _norms(shape: ModelShape, full: bool, width: int, split: int) -> float:
    """Inputs in fp32, and the normalized values where a weight is trained (RMSNorm multiplies by itself; LayerNorm is
    one operation that keeps its input)."""
    total = 0.0
    for tensor in shape.tensors:
        if tensor.role != "norm" or not in_layer(tensor) or not tensor.name.endswith("weight"):
            continue
        size = float(tensor.shape[0])
        if "q_norm" in tensor.name:
            size = max(each.attention.heads * each.attention.head_dim for each in shape.layers) / split
        elif "k_norm" in tensor.name:
            size = max(each.attention.kv_heads * each.attention.head_dim for each in shape.layers) / split
        elements = size * (4 + (width if full and shape.norm == "rms" else 0)) + SUM
        total += elements * tensor.count / shape.depth
    return total


def _inputs(shape: ModelShape, full: bool, adapted: list[Tensor], width: int, adapter_width: int, split: int) -> float:
    """What attention's and the MLP's first linear layers keep of the norms' outputs, or the copies for adapters."""
    hidden, depth = shape.hidden, shape.depth
    if full:
        norms = sum(t.count for t in shape.tensors if in_layer(t) and _feeds(t, hidden)) / depth
        return width * hidden * min(2.0, norms)
    if not adapter_width:
        roles = {tensor.role for tensor in adapted if tensor.shape[-1] == hidden}
        return float(width * hidden * len(roles & {"attention", "mlp"}))
    total = 0.0
    for tensor in adapted:
        into = tensor.shape[-1]
        if tensor.role == "expert":
            continue
        total += adapter_width * tensor.count / depth * (into if into == hidden else into / split)
    return total


def _feeds(tensor: Tensor, hidden: int) -> bool:
    return tensor.role == "norm" and tensor.shape == (hidden,) and tensor.name.endswith("weight")


def _attention(layer: Layer, width: int, split: int) -> tuple[float, float, float]:
    """(fused, eager without its scores, fused with a mask) bytes per token."""
    each = layer.attention
    queries, keys = each.heads * each.head_dim, each.kv_heads * each.head_dim
    values, out = each.kv_heads * each.value_dim, each.heads * each.value_dim
    latent = 2 * (each.kv_rank + (each.rope_dim or 0) + (each.q_rank or 0)) if each.kv_rank is not None else 0
    fused = width * (queries + keys + values + out) + SUM * each.heads
    repeated = width * (2 * queries + 2 * out) + SUM * each.heads
    eager = width * (2 * queries + 2 * out)
    if each.kv_heads == each.heads:
        repeated = fused
    return tuple((one / split) + width * latent for one in (fused, eager, repeated))  # type: ignore[return-value]


def _mlp(
    family: str,
    layer: Layer,
    full: bool,
    adapted: list[Tensor],
    width: int,
    adapter_width: int,
    hidden: int,
    split: int,
) -> float:
    """Gate, activation and up (an ungated MLP: up and activation), and what the down projection gets."""
    each = layer.mlp
    size = each.active_width / split
    down = full or any(t.role == "mlp" and t.shape[0] == hidden and t.shape[-1] != hidden for t in adapted)
    if each.gated:
        total = 3 * size + (size if each.experts or (down and not adapter_width) else 0)
    else:
        total = size * (4 if family in WRITTEN_OUT else 1) + (size if down and not adapter_width else 0)
    if each.experts:
        # Every expert gets copies of its tokens and gives back as many, to be weighted by the router.
        total += 2 * each.experts_per_token * hidden
    return width * total
