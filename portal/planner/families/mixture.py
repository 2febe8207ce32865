"""Mixtures of experts with plain attention: Mixtral, Qwen's MoE models, gpt-oss.

Transformers 5 holds a layer's experts in two fused parameters; here each expert keeps its own linear layers, which are
as many numbers. A router is not among the linear layers: quantization doesn't touch it, and LoRA only where PEFT
converts a family's names. Defaults are those of Transformers 5.24's config classes.
"""

from dataclasses import replace
from typing import Any

from portal.planner.families.fields import Fields
from portal.planner.families.llama import LLAMA, QWEN2
from portal.planner.families.stack import Block, Made, Sizes, decoder, not_more, stacked
from portal.planner.shapes import Mlp, ModelShape

MIXTRAL: dict[str, Any] = {
    **LLAMA,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
QWEN2_MOE: dict[str, Any] = {
    **QWEN2,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "qkv_bias": True,
}
QWEN3_MOE: dict[str, Any] = {
    **QWEN2_MOE,
    "intermediate_size": 6144,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
GPT_OSS: dict[str, Any] = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "sliding_window": 128,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "attention_bias": True,
}


def mixtral(fields: Fields) -> ModelShape:
    """Mixtral (arXiv:2401.04088): every layer's MLP is a mixture."""
    sizes = Sizes.of(fields)
    experts, chosen = experts_of(fields, "num_local_experts")

    def layer(window: int | None) -> Made:
        block = Block()
        attention = block.grouped_attention(sizes, window)
        mlp = routed(block, sizes.hidden, sizes.intermediate, experts, chosen)
        return attention, mlp, _two_norms(block, sizes)

    return decoder(fields, sizes, *stacked([fields.optional("sliding_window")] * sizes.layers, layer))


def qwen2_moe(fields: Fields) -> ModelShape:
    """Qwen 1.5 and 2 MoE (arXiv:2407.10671): a gated shared expert beside the routed ones; biases as Qwen 2's."""
    sizes = Sizes.of(fields)
    width, shared = fields.whole("moe_intermediate_size"), fields.whole("shared_expert_intermediate_size", least=0)
    bias = fields.flag("qkv_bias")
    sparse = sparse_layers(fields, sizes.layers)
    experts, chosen = experts_of(fields, "num_experts") if any(sparse) else (0, 0)
    windows = fields.windows(sizes.layers)
    if windows is None:
        window = fields.optional("sliding_window") if fields.flag("use_sliding_window") else None
        last = 0 if window is None else fields.whole("max_window_layers", least=0)
        windows = [window if i % 2 == 0 and i < last else None for i in range(sizes.layers)]

    def layer(kind: tuple[int | None, bool]) -> Made:
        window, is_sparse = kind
        block = Block()
        attention = block.grouped_attention(sizes, window, bias, out_bias=False)
        if is_sparse:
            mlp = replace(routed(block, sizes.hidden, width, experts, chosen), shared_width=shared)
            if shared:
                block.gated("mlp.shared_expert", sizes.hidden, shared)
            block.linear("mlp.shared_expert_gate", 1, sizes.hidden, "mlp")
        else:
            mlp = block.gated("mlp", sizes.hidden, sizes.intermediate)
        return attention, mlp, _two_norms(block, sizes)

    return decoder(fields, sizes, *stacked(zip(windows, sparse, strict=True), layer))


def qwen3_moe(fields: Fields) -> ModelShape:
    """Qwen 3 MoE (arXiv:2505.09388): norms on each head's queries and keys, no shared expert."""
    sizes = Sizes.of(fields)
    width, bias = fields.whole("moe_intermediate_size"), fields.flag("attention_bias")
    sparse = sparse_layers(fields, sizes.layers)
    experts, chosen = experts_of(fields, "num_experts") if any(sparse) else (0, 0)
    window = fields.optional("sliding_window") if fields.flag("use_sliding_window") else None

    def layer(is_sparse: bool) -> Made:
        block = Block()
        attention = block.grouped_attention(sizes, window, bias)
        block.norm("self_attn.q_norm", sizes.head_dim)
        block.norm("self_attn.k_norm", sizes.head_dim)
        if is_sparse:
            mlp = routed(block, sizes.hidden, width, experts, chosen)
        else:
            mlp = block.gated("mlp", sizes.hidden, sizes.intermediate)
        return attention, mlp, _two_norms(block, sizes)

    return decoder(fields, sizes, *stacked(sparse, layer))


def gpt_oss(fields: Fields) -> ModelShape:
    """gpt-oss (arXiv:2508.10925): biases everywhere, a learned sink a head, a window in every other layer."""
    sizes = Sizes.of(fields)
    bias = fields.flag("attention_bias")
    experts, chosen = experts_of(fields, "num_local_experts")
    windows = fields.windows(sizes.layers)
    if windows is None:
        window = fields.optional("sliding_window")
        windows = [window if layer % 2 == 0 else None for layer in range(sizes.layers)]

    def layer(window: int | None) -> Made:
        block = Block()
        attention = block.grouped_attention(sizes, window, bias)
        block.plain("self_attn.sinks", (sizes.heads,), "attention")
        mlp = routed(block, sizes.hidden, sizes.intermediate, experts, chosen, bias=True, router="router")
        return attention, mlp, _two_norms(block, sizes)

    return decoder(fields, sizes, *stacked(windows, layer))


def experts_of(fields: Fields, name: str) -> tuple[int, int]:
    """(experts of a layer, experts a token is sent to)."""
    not_more(fields, "num_experts_per_tok", name)
    return fields.whole(name), fields.whole("num_experts_per_tok")


def sparse_layers(fields: Fields, layers: int) -> list[bool]:
    """Which layers are mixtures by Qwen's rule: every `decoder_sparse_step`-th that isn't in `mlp_only_layers`."""
    step = fields.whole("decoder_sparse_step")
    dense = set()
    for layer in fields.listed("mlp_only_layers", layers) or ():
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise fields.refused("mlp_only_layers", "must be a list of layer numbers")
        dense.add(layer)
    some = fields.whole("num_experts", least=0) > 0
    return [some and layer not in dense and (layer + 1) % step == 0 for layer in range(layers)]


def routed(
    block: Block, hidden: int, width: int, experts: int, chosen: int, bias: bool = False, router: str = "gate"
) -> Mlp:
    """A router and its experts, each with gate, up and down projections."""
    block.plain(f"mlp.{router}.weight", (experts, hidden), "router")
    if bias:
        block.plain(f"mlp.{router}.bias", (experts,), "router")
    block.gated("mlp.experts", hidden, width, "expert", bias, experts)
    return Mlp(width, gated=True, experts=experts, experts_per_token=chosen)


def _two_norms(block: Block, sizes: Sizes) -> Block:
    block.norm("input_layernorm", sizes.hidden)
    block.norm("post_attention_layernorm", sizes.hidden)
    return block
