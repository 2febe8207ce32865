"""Microsoft's Phi: Phi 1 to 2 with LayerNorm and one norm a layer, Phi 3 and 4 like Llama with fused projections.

Defaults are those of Transformers 5.24's config classes. Knows nothing of Phi's mixtures.
"""

from typing import Any

from portal.planner.families.fields import Fields
from portal.planner.families.stack import Around, Block, Made, Sizes, decoder, stacked
from portal.planner.shapes import Attention, Mlp, ModelShape

PHI: dict[str, Any] = {
    "vocab_size": 51200,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
PHI3: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}


def phi(fields: Fields) -> ModelShape:
    """Phi 1, 1.5 and 2 (arXiv:2306.11644, 2309.05463): attention and MLP in parallel, biases everywhere."""
    sizes = Sizes.of(fields)
    head_norms = fields.flag("qk_layernorm")

    def layer(_: None) -> Made:
        block = Block(norm_bias=True)
        attention = block.grouped_attention(sizes, bias=True, out_name="dense")
        if head_norms:
            block.norm("self_attn.q_layernorm", sizes.head_dim)
            block.norm("self_attn.k_layernorm", sizes.head_dim)
        mlp = block.plain_mlp("mlp.fc1", "mlp.fc2", sizes.hidden, sizes.intermediate)
        block.norm("input_layernorm", sizes.hidden)
        return attention, mlp, block

    made = stacked([None] * sizes.layers, layer)
    around = Around(norm="layer", norm_bias=True, final_norm="final_layernorm", head_bias=True)
    return decoder(fields, sizes, *made, around)


def phi3(fields: Fields) -> ModelShape:
    """Phi 3 (arXiv:2404.14219) and 4 (arXiv:2412.08905): queries, keys and values are one projection, gate and up
    another."""
    sizes = Sizes.of(fields)
    window = fields.optional("sliding_window")
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim

    def layer(_: None) -> Made:
        block = Block()
        block.linear("self_attn.qkv_proj", queries + 2 * keys, sizes.hidden, "attention")
        block.linear("self_attn.o_proj", sizes.hidden, queries, "attention")
        block.linear("mlp.gate_up_proj", 2 * sizes.intermediate, sizes.hidden, "mlp")
        block.linear("mlp.down_proj", sizes.hidden, sizes.intermediate, "mlp")
        block.norm("input_layernorm", sizes.hidden)
        block.norm("post_attention_layernorm", sizes.hidden)
        attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.head_dim, window)
        return attention, Mlp(sizes.intermediate, gated=True), block

    return decoder(fields, sizes, *stacked([None] * sizes.layers, layer))
