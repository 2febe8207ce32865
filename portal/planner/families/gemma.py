"""Google's Gemma 1 to 3: tied embeddings, heads wider than hidden / heads, windows in most layers from Gemma 2 on.

Defaults are those of Transformers 5.24's config classes. Knows nothing of images: Gemma 3 is its text part.
"""

from typing import Any

from portal.planner.families.fields import Fields
from portal.planner.families.stack import Block, Made, Sizes, decoder, stacked
from portal.planner.shapes import ModelShape

GEMMA: dict[str, Any] = {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
GEMMA2: dict[str, Any] = {
    **GEMMA,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
}
GEMMA3: dict[str, Any] = {
    **GEMMA2,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "sliding_window_pattern": 6,
}


def gemma(fields: Fields) -> ModelShape:
    """Gemma (arXiv:2403.08295): two norms a layer, every layer sees all tokens."""
    return _gemma(fields, lambda _layer: False, ("input_layernorm", "post_attention_layernorm"))


def gemma2(fields: Fields) -> ModelShape:
    """Gemma 2 (arXiv:2408.00118): four norms a layer; every other layer has a window, the first one too."""
    return _gemma(fields, lambda layer: layer % 2 == 0)


def gemma3(fields: Fields) -> ModelShape:
    """Gemma 3 (arXiv:2503.19786): norms on queries and keys; five layers with a window for each without."""
    pattern = fields.whole("sliding_window_pattern")
    return _gemma(fields, lambda layer: (layer + 1) % pattern != 0, head_norms=True)


FOUR_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def _gemma(fields: Fields, windowed: Any, norms: tuple[str, ...] = FOUR_NORMS, head_norms: bool = False) -> ModelShape:
    sizes = Sizes.of(fields)
    bias = fields.flag("attention_bias")
    windows = fields.windows(sizes.layers)
    if windows is None:
        window = fields.optional("sliding_window")
        windows = [window if windowed(layer) else None for layer in range(sizes.layers)]

    def layer(window: int | None) -> Made:
        block = Block()
        attention = block.grouped_attention(sizes, window, bias)
        if head_norms:
            block.norm("self_attn.q_norm", sizes.head_dim)
            block.norm("self_attn.k_norm", sizes.head_dim)
        mlp = block.gated("mlp", sizes.hidden, sizes.intermediate)
        for norm in norms:
            block.norm(norm, sizes.hidden)
        return attention, mlp, block

    return decoder(fields, sizes, *stacked(windows, layer))
