"""Decoders that differ from Llama in a norm or a bias: OLMo 2, StarCoder2, Command R, GLM-4.

Defaults are those of Transformers 5.24's config classes. Knows nothing of latent attention.
"""

from dataclasses import replace
from typing import Any

from portal.planner.families.fields import Fields
from portal.planner.families.llama import LLAMA
from portal.planner.families.mixture import experts_of, routed
from portal.planner.families.stack import Around, Block, Made, Sizes, decoder, stacked
from portal.planner.shapes import Mlp, ModelShape

OLMO2: dict[str, Any] = {**LLAMA, "vocab_size": 50304}
STARCODER2: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "use_bias": True,
    "tie_word_embeddings": True,
}
COHERE: dict[str, Any] = {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
COHERE2: dict[str, Any] = {**COHERE, "sliding_window": 4096, "sliding_window_pattern": 4}
GLM4: dict[str, Any] = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "attention_bias": True,
}
GLM4_MOE: dict[str, Any] = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 1,
}


def olmo2(fields: Fields) -> ModelShape:
    """OLMo 2 (arXiv:2501.00656): norms after attention and MLP, and over all queries and all keys."""
    sizes = Sizes.of(fields)
    bias = fields.flag("attention_bias")

    def layer(_: None) -> Made:
        block = Block()
        attention = block.grouped_attention(sizes, bias=bias)
        block.norm("self_attn.q_norm", sizes.heads * sizes.head_dim)
        block.norm("self_attn.k_norm", sizes.kv_heads * sizes.head_dim)
        mlp = block.gated("mlp", sizes.hidden, sizes.intermediate)
        block.norm("post_attention_layernorm", sizes.hidden)
        block.norm("post_feedforward_layernorm", sizes.hidden)
        return attention, mlp, block

    return decoder(fields, sizes, *stacked([None] * sizes.layers, layer))


def starcoder2(fields: Fields) -> ModelShape:
    """StarCoder2 (arXiv:2402.19173): LayerNorm, an MLP without a gate, biases."""
    sizes = Sizes.of(fields)
    bias, window = fields.flag("use_bias"), fields.optional("sliding_window")

    def layer(_: None) -> Made:
        block = Block(norm_bias=True)
        attention = block.grouped_attention(sizes, window, bias)
        mlp = block.plain_mlp("mlp.c_fc", "mlp.c_proj", sizes.hidden, sizes.intermediate, bias)
        block.norm("input_layernorm", sizes.hidden)
        block.norm("post_attention_layernorm", sizes.hidden)
        return attention, mlp, block

    return decoder(fields, sizes, *stacked([None] * sizes.layers, layer), Around(norm="layer", norm_bias=True))


def cohere(fields: Fields) -> ModelShape:
    """Command R, and Command R7B whose layers but every fourth have a window: one LayerNorm without bias a layer."""
    sizes = Sizes.of(fields)
    bias, head_norms = fields.flag("attention_bias"), fields.flag("use_qk_norm")
    windows = fields.windows(sizes.layers)
    if windows is None:
        window, pattern = fields.optional("sliding_window"), fields.optional("sliding_window_pattern") or 1
        windows = [window if (number + 1) % pattern else None for number in range(sizes.layers)]

    def layer(window: int | None) -> Made:
        block = Block()
        attention = block.grouped_attention(sizes, window, bias)
        if head_norms:
            block.plain("self_attn.q_norm.weight", (sizes.heads, sizes.head_dim), "norm")
            block.plain("self_attn.k_norm.weight", (sizes.kv_heads, sizes.head_dim), "norm")
        mlp = block.gated("mlp", sizes.hidden, sizes.intermediate)
        block.norm("input_layernorm", sizes.hidden)
        return attention, mlp, block

    return decoder(fields, sizes, *stacked(windows, layer), Around(norm="layer"))


def glm4(fields: Fields) -> ModelShape:
    """GLM-4 0414: gate and up in one projection, norms before and after attention and MLP."""
    sizes = Sizes.of(fields)
    bias = fields.flag("attention_bias")

    def layer(_: None) -> Made:
        block = Block()
        attention = block.grouped_attention(sizes, bias=bias, out_bias=False)
        block.linear("mlp.gate_up_proj", 2 * sizes.intermediate, sizes.hidden, "mlp")
        block.linear("mlp.down_proj", sizes.hidden, sizes.intermediate, "mlp")
        for norm in (
            "input_layernorm",
            "post_attention_layernorm",
            "post_self_attn_layernorm",
            "post_mlp_layernorm",
        ):
            block.norm(norm, sizes.hidden)
        return attention, Mlp(sizes.intermediate, gated=True), block

    return decoder(fields, sizes, *stacked([None] * sizes.layers, layer))


def glm4_moe(fields: Fields) -> ModelShape:
    """GLM-4.5 (arXiv:2508.06471): plain attention, dense first layers, then mixtures with a shared expert."""
    sizes = Sizes.of(fields)
    bias, head_norms = fields.flag("attention_bias"), fields.flag("use_qk_norm")
    width, shared = fields.whole("moe_intermediate_size"), fields.whole("n_shared_experts", least=0)
    dense = min(sizes.layers, fields.whole("first_k_dense_replace", least=0))
    experts, chosen = experts_of(fields, "n_routed_experts") if dense < sizes.layers else (0, 0)

    def layer(is_sparse: bool) -> Made:
        block = Block()
        attention = block.grouped_attention(sizes, bias=bias, out_bias=False)
        if head_norms:
            block.norm("self_attn.q_norm", sizes.head_dim)
            block.norm("self_attn.k_norm", sizes.head_dim)
        if is_sparse:
            mlp = replace(routed(block, sizes.hidden, width, experts, chosen), shared_width=width * shared)
            if shared:
                block.gated("mlp.shared_experts", sizes.hidden, width * shared)
        else:
            mlp = block.gated("mlp", sizes.hidden, sizes.intermediate)
        block.norm("input_layernorm", sizes.hidden)
        block.norm("post_attention_layernorm", sizes.hidden)
        return attention, mlp, block

    return decoder(fields, sizes, *stacked([number >= dense for number in range(sizes.layers)], layer))
