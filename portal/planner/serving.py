"""What serving takes on one device: the KV cache, the prompt that is being read, the scores of the next token.

Knows nothing of weights. KV cache elements per token are the shape's (GQA, arXiv:2305.13245; MLA, arXiv:2405.04434;
sliding windows, arXiv:2310.06825).
"""

from dataclasses import dataclass

from portal.planner.activations import WRITTEN_OUT, attention_kernel
from portal.planner.repacking import Repacking, repacking
from portal.planner.request import Method, Workload
from portal.planner.shapes import Layer, ModelShape
from portal.planner.states import WIDTH

KV_WIDTH = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1 + 2 * 2 / 64}
"""Bytes of a cached number; int8 has a 16-bit scale and zero point for 64 of them (KIVI, arXiv:2402.02750)."""
READ_AT_ONCE = 8192
"""Tokens of prompts that are read at once; longer ones in pieces."""
SCORES = 3
"""fp32 copies of the next token's scores: the head's, a float copy, and a sampled or masked one."""


@dataclass(frozen=True)
class Serving:
    """Bytes on the device."""

    rows: int
    cache: int
    grown: int
    """A layer's keys are copied to a longer tensor at every token."""
    reading: int
    scores: int
    tokens: int
    """Read at once."""
    repacked: int = 0
    """What weights that are laid out anew take more, for good."""


def serving(shape: ModelShape, workload: Workload, method: Method, repacks: bool = False) -> Serving:
    """For this replica's share of the concurrent requests, all at full context. `repacks`: the device lays nf4 weights
    out anew when they are first used."""
    rows, context = -(-workload.concurrency // method.data), workload.context
    kept = KV_WIDTH[method.kv_cache]
    parts = method.tensor
    if any(layer.attention.kv_rank is not None for layer in shape.layers):
        parts = 1  # every device of a tensor group needs MLA's whole latent
    cache = int(rows * shape.kv_elements(context) * kept / min(parts, shape.kv_heads) / method.pipeline)
    layer = max(shape.layers, key=lambda each: _reading(shape, each, 1, workload, method))
    tokens = min(rows * context, max(context if rows == 1 else 0, READ_AT_ONCE))
    reading = _reading(shape, layer, tokens, workload, method)
    anew = repacking(shape) if repacks and method.quantization == "nf4" else Repacking(0, 0)
    if anew.at_work:
        reading = max(reading, anew.at_work + _waiting(shape, layer, tokens, workload, method))
    # The reading doesn't wait for the cache's last copy, nor the copy for the reading.
    grown = int(rows * context * layer.attention.kv_width * kept / 2 / min(parts, shape.kv_heads))
    return Serving(
        rows,
        cache,
        grown,
        reading,
        rows * shape.vocab * 4 * SCORES // method.tensor if shape.logits else 0,
        tokens,
        anew.scales,
    )


def _waiting(shape: ModelShape, layer: Layer, tokens: int, workload: Workload, method: Method) -> int:
    """What is there while the MLP's weight is made ready: one activation of it, four widths of the residual stream,
    the mask and the rotary tables."""
    rows = -(-workload.concurrency // method.data)
    width, rotary = WIDTH[method.precision], layer.attention.rope_dim or layer.attention.head_dim
    mask = workload.context if rows > 1 and attention_kernel(shape, method) != "flash" else 0
    return tokens * (width * (layer.mlp.active_width + 4 * shape.hidden + 2 * rotary) + mask + 24)


def _reading(shape: ModelShape, layer: Layer, tokens: int, workload: Workload, method: Method) -> int:
    """The larger of a layer's MLP and its attention over `tokens` at once: gate, up and their product beside four
    widths of the residual stream; or queries, repeated keys and values, and the mask in the layer's numbers. The mask
    of a padded batch, a byte for each pair of tokens, and the rotary tables are there all the while."""
    attention, mlp, hidden, context = layer.attention, layer.mlp, shape.hidden, workload.context
    rows, width = -(-workload.concurrency // method.data), WIDTH[method.precision]
    tables = 2 * (attention.rope_dim or attention.head_dim)
    wide = _widths(shape, layer) * mlp.active_width // method.tensor + 4 * hidden
    queries = attention.heads * attention.head_dim // method.tensor
    out = attention.heads * attention.value_dim // method.tensor
    heads = 3 * hidden + 2 * queries + 2 * out
    attending = width * tokens * heads
    mask = 0
    kernel = attention_kernel(shape, method)
    if kernel == "eager":
        attending += tokens * context * (attention.heads // method.tensor) * (4 + width)
        mask = tokens * context * width
    elif rows > 1 and kernel != "flash":
        attending += tokens * context * width
        mask = tokens * context
    return max(width * tokens * wide, attending) + mask + tokens * (24 + width * tables)


def _widths(shape: ModelShape, layer: Layer) -> int:
    """MLP-wide tensors at once: activation, up and product; a fused gate and up stay beside their halves."""
    if layer.mlp.gated:
        return 4 if any("gate_up" in tensor.name for tensor in shape.tensors) else 3
    return 4 if shape.family in WRITTEN_OUT else 2
