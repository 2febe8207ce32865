"""Llama and the families built like it: GQA attention, a gated MLP, two RMS norms a layer.

Defaults are those of Transformers 5.24's config classes. Knows nothing of mixtures, latent attention or LayerNorm.
"""

from typing import Any

from portal.planner.families.fields import Fields
from portal.planner.families.stack import Block, Made, Sizes, decoder, stacked
from portal.planner.shapes import ModelShape

LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
MISTRAL: dict[str, Any] = {
    **LLAMA,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
QWEN2: dict[str, Any] = {
    **LLAMA,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
QWEN3: dict[str, Any] = {**QWEN2, "head_dim": 128}
SMOLLM3: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}


def llama(fields: Fields) -> ModelShape:
    """Llama 1 to 3 (arXiv:2302.13971, 2307.09288, 2407.21783); SmolLM2, SmolLM3 and Granite have its tensors."""
    sizes = Sizes.of(fields)
    bias, mlp_bias = fields.flag("attention_bias"), fields.flag("mlp_bias")
    windows = fields.windows(sizes.layers) or [None] * sizes.layers
    return decoder(fields, sizes, *stacked(windows, lambda window: _layer(sizes, window, bias, bias, mlp_bias)))


def mistral(fields: Fields) -> ModelShape:
    """Mistral 7B (arXiv:2310.06825): a sliding window in every layer unless it is null."""
    sizes = Sizes.of(fields)
    windows = [fields.optional("sliding_window")] * sizes.layers
    return decoder(fields, sizes, *stacked(windows, lambda window: _layer(sizes, window)))


def ministral(fields: Fields) -> ModelShape:
    """Ministral: Mistral's layers, whose windows `layer_types` may switch off one by one."""
    sizes = Sizes.of(fields)
    windows = fields.windows(sizes.layers) or [fields.optional("sliding_window")] * sizes.layers
    return decoder(fields, sizes, *stacked(windows, lambda window: _layer(sizes, window)))


def qwen2(fields: Fields) -> ModelShape:
    """Qwen 2 and 2.5 (arXiv:2407.10671, 2412.15115): biases on queries, keys and values."""
    sizes = Sizes.of(fields)
    made = stacked(qwen_windows(fields, sizes.layers), lambda window: _layer(sizes, window, bias=True))
    return decoder(fields, sizes, *made)


def qwen3(fields: Fields) -> ModelShape:
    """Qwen 3 (arXiv:2505.09388): norms on each head's queries and keys, no biases."""
    sizes = Sizes.of(fields)
    bias = fields.flag("attention_bias")
    windows = qwen_windows(fields, sizes.layers)
    made = stacked(windows, lambda window: _layer(sizes, window, bias, bias, head_norms=True))
    return decoder(fields, sizes, *made)


def qwen_windows(fields: Fields, layers: int) -> list[int | None]:
    """Qwen's windows: by layer_types, else from layer `max_window_layers` on where use_sliding_window is true."""
    listed = fields.windows(layers)
    if listed is not None:
        return listed
    window = fields.optional("sliding_window") if fields.flag("use_sliding_window") else None
    full = layers if window is None else min(layers, fields.whole("max_window_layers", least=0))
    return [None] * full + [window] * (layers - full)


def _layer(
    sizes: Sizes,
    window: int | None,
    bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    head_norms: bool = False,
) -> Made:
    block = Block()
    attention = block.grouped_attention(sizes, window, bias, out_bias)
    if head_norms:
        block.norm("self_attn.q_norm", sizes.head_dim)
        block.norm("self_attn.k_norm", sizes.head_dim)
    mlp = block.gated("mlp", sizes.hidden, sizes.intermediate, bias=mlp_bias)
    block.norm("input_layernorm", sizes.hidden)
    block.norm("post_attention_layernorm", sizes.hidden)
    return attention, mlp, block
