"""DeepSeek-V2 and V3: latent attention (MLA), dense first layers, then mixtures with shared experts.

Defaults are those of Transformers 5.24's config classes. The layers for multi-token prediction are not counted:
Transformers leaves them out, and so does the published 671B.
"""

from dataclasses import replace
from typing import Any

from portal.planner.families.fields import Fields
from portal.planner.families.mixture import experts_of, routed
from portal.planner.families.stack import Block, Made, Sizes, decoder, stacked
from portal.planner.shapes import Attention, ModelShape

_LATENT: dict[str, Any] = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
DEEPSEEK_V2: dict[str, Any] = {
    **_LATENT,
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "first_k_dense_replace": 0,
    "moe_intermediate_size": 1407,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
}
DEEPSEEK_V3: dict[str, Any] = {
    **_LATENT,
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "max_position_embeddings": 4096,
    "first_k_dense_replace": 3,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
}


def deepseek(fields: Fields) -> ModelShape:
    """DeepSeek-V2 (arXiv:2405.04434) and V3 (arXiv:2412.19437)."""
    sizes = Sizes.of(fields, "latent")
    hidden = sizes.hidden
    bias, mlp_bias = fields.flag("attention_bias"), fields.flag("mlp_bias")
    width, shared = fields.whole("moe_intermediate_size"), fields.whole("n_shared_experts", least=0)
    dense = min(sizes.layers, fields.whole("first_k_dense_replace", least=0))
    experts, chosen = experts_of(fields, "n_routed_experts") if dense < sizes.layers else (0, 0)

    def layer(is_sparse: bool) -> Made:
        block = Block()
        attention = _latent_attention(block, fields, sizes, bias)
        if not is_sparse:
            mlp = block.gated("mlp", hidden, sizes.intermediate, bias=mlp_bias)
        else:
            mlp = replace(routed(block, hidden, width, experts, chosen), shared_width=width * shared)
            if shared:
                block.gated("mlp.shared_experts", hidden, width * shared, bias=mlp_bias)
        block.norm("input_layernorm", hidden)
        block.norm("post_attention_layernorm", hidden)
        return attention, mlp, block

    return decoder(fields, sizes, *stacked([number >= dense for number in range(sizes.layers)], layer))


def _latent_attention(block: Block, fields: Fields, sizes: Sizes, bias: bool) -> Attention:
    """MLA: queries and keys-values go through low-rank latents; the rotary part of the key is shared by the heads."""
    hidden, heads = sizes.hidden, sizes.heads
    kv_rank, q_rank = fields.whole("kv_lora_rank"), fields.optional("q_lora_rank")
    plain, rope, value = (fields.whole(name) for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    queries = heads * (plain + rope)
    if q_rank is None:
        block.linear("self_attn.q_proj", queries, hidden, "attention")
    else:
        block.linear("self_attn.q_a_proj", q_rank, hidden, "attention", bias)
        block.norm("self_attn.q_a_layernorm", q_rank)
        block.linear("self_attn.q_b_proj", queries, q_rank, "attention")
    block.linear("self_attn.kv_a_proj_with_mqa", kv_rank + rope, hidden, "attention", bias)
    block.norm("self_attn.kv_a_layernorm", kv_rank)
    block.linear("self_attn.kv_b_proj", heads * (plain + value), kv_rank, "attention")
    block.linear("self_attn.o_proj", hidden, heads * value, "attention", bias)
    return Attention(heads, heads, plain + rope, value, kv_rank=kv_rank, rope_dim=rope, q_rank=q_rank)
