"""GPT-2 and the decoders of its kind: LayerNorm with biases, an MLP without a gate, often fused projections.

Defaults are those of Transformers 5.24's config classes. Knows nothing of RMS norms or gated MLPs.
"""

from typing import Any

from portal.planner.families.fields import Fields
from portal.planner.families.stack import Around, Block, Made, Sizes, decoder, stacked
from portal.planner.shapes import Attention, ModelShape, Tensor

GPT2: dict[str, Any] = {
    "vocab_size": 50257,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
GPT2_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
GPT_NEOX: dict[str, Any] = {
    "vocab_size": 50432,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "max_position_embeddings": 2048,
    "attention_bias": True,
}
OPT: dict[str, Any] = {
    "vocab_size": 50272,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "do_layer_norm_before": True,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
}
OPT_NAMES = {"intermediate_size": "ffn_dim"}
BLOOM: dict[str, Any] = {
    "vocab_size": 250880,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
BLOOM_NAMES = {
    "hidden_size": "n_embed",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "seq_length",
}
FALCON: dict[str, Any] = {
    "vocab_size": 65024,
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "multi_query": True,
    "parallel_attn": True,
}
FALCON_NAMES = {"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"}


def gpt2(fields: Fields) -> ModelShape:
    """GPT-2 and GPT-3 (arXiv:2005.14165, section 2.1: the same architecture): learned positions, a fused projection."""
    sizes = Sizes.of(fields, "classic")
    hidden = sizes.hidden

    def layer(_: None) -> Made:
        block = Block(norm_bias=True)
        block.norm("ln_1", hidden)
        attention = _fused(block, sizes, "attn.c_attn", "attn.c_proj", sizes.heads, bias=True)
        block.norm("ln_2", hidden)
        return attention, block.plain_mlp("mlp.c_fc", "mlp.c_proj", hidden, sizes.intermediate), block

    positions = Tensor("wpe.weight", (sizes.context, hidden), 1, "position")
    around = _layer_normed(embedding="wte", beside=(positions,), final_norm="ln_f")
    return decoder(fields, sizes, *stacked([None] * sizes.layers, layer), around)


def gpt_neox(fields: Fields) -> ModelShape:
    """GPT-NeoX and Pythia (arXiv:2204.06745, 2304.01373): rotary positions, an untied head."""
    sizes = Sizes.of(fields, "classic")
    hidden, bias = sizes.hidden, fields.flag("attention_bias")

    def layer(_: None) -> Made:
        block = Block(norm_bias=True)
        block.norm("input_layernorm", hidden)
        block.norm("post_attention_layernorm", hidden)
        attention = _fused(block, sizes, "attention.query_key_value", "attention.dense", sizes.heads, bias)
        mlp = block.plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", hidden, sizes.intermediate)
        return attention, mlp, block

    around = _layer_normed(embedding="embed_in", final_norm="final_layer_norm")
    return decoder(fields, sizes, *stacked([None] * sizes.layers, layer), around)


def opt(fields: Fields) -> ModelShape:
    """OPT (arXiv:2205.01068): learned positions with two rows to spare; the 350M has a narrower embedding."""
    sizes = Sizes.of(fields, "classic")
    hidden, bias = sizes.hidden, fields.flag("enable_bias")
    width = fields.optional("word_embed_proj_dim") or hidden
    scaled = fields.flag("layer_norm_elementwise_affine")

    def layer(_: None) -> Made:
        block = Block(norm_bias=True)
        attention = block.grouped_attention(sizes, bias=bias, out_name="out_proj")
        mlp = block.plain_mlp("fc1", "fc2", hidden, sizes.intermediate, bias)
        for norm in ("self_attn_layer_norm", "final_layer_norm") if scaled else ():
            block.norm(norm, hidden)
        return attention, mlp, block

    beside = Block()
    beside.plain("embed_positions.weight", (sizes.context + 2, hidden), "position")
    if width != hidden:
        beside.linear("project_in", hidden, width, "other")
        beside.linear("project_out", width, hidden, "other")
    last = scaled and fields.flag("do_layer_norm_before") and not fields.flag("_remove_final_layer_norm")
    around = _layer_normed(beside=tuple(beside.tensors), final_norm="final_layer_norm" if last else None, width=width)
    return decoder(fields, sizes, *stacked([None] * sizes.layers, layer), around)


def bloom(fields: Fields) -> ModelShape:
    """BLOOM (arXiv:2211.05100): ALiBi has no parameters; the embedding has a norm. No field says the context."""
    sizes = Sizes.of(fields, "classic")
    hidden = sizes.hidden

    def layer(_: None) -> Made:
        block = Block(norm_bias=True)
        block.norm("input_layernorm", hidden)
        names = "self_attention.query_key_value", "self_attention.dense"
        attention = _fused(block, sizes, *names, sizes.heads, bias=True)
        block.norm("post_attention_layernorm", hidden)
        return attention, block.plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", hidden, 4 * hidden), block

    beside = Block(norm_bias=True)
    beside.norm("word_embeddings_layernorm", hidden)
    around = _layer_normed(embedding="word_embeddings", beside=tuple(beside.tensors), final_norm="ln_f")
    return decoder(fields, sizes, *stacked([None] * sizes.layers, layer), around)


def falcon(fields: Fields) -> ModelShape:
    """Falcon (arXiv:2311.16867): one key-value head, or groups in the newer architecture."""
    sizes = Sizes.of(fields, "classic")
    hidden, bias = sizes.hidden, fields.flag("bias")
    newer, parallel = fields.flag("new_decoder_architecture"), fields.flag("parallel_attn")
    ungrouped = 1 if fields.flag("multi_query") else sizes.heads
    kv_heads = sizes.kv_heads if newer else ungrouped
    norms = fields.optional("num_ln_in_parallel_attn") or (2 if newer else 1)
    if not parallel:
        names: tuple[str, ...] = ("post_attention_layernorm", "input_layernorm")
    else:
        names = ("ln_attn", "ln_mlp") if norms == 2 else ("input_layernorm",)

    def layer(_: None) -> Made:
        block = Block(norm_bias=True)
        attention = _fused(block, sizes, "self_attention.query_key_value", "self_attention.dense", kv_heads, bias)
        mlp = block.plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", hidden, sizes.intermediate, bias)
        for name in names:
            block.norm(name, hidden)
        return attention, mlp, block

    around = _layer_normed(embedding="word_embeddings", final_norm="ln_f")
    return decoder(fields, sizes, *stacked([None] * sizes.layers, layer), around)


def _fused(block: Block, sizes: Sizes, together: str, out: str, kv_heads: int, bias: bool) -> Attention:
    """Queries, keys and values from one projection."""
    width = (sizes.heads + 2 * kv_heads) * sizes.head_dim
    block.linear(together, width, sizes.hidden, "attention", bias)
    block.linear(out, sizes.hidden, sizes.hidden, "attention", bias)
    return Attention(sizes.heads, kv_heads, sizes.head_dim, sizes.head_dim)


def _layer_normed(
    embedding: str = "embed_tokens",
    beside: tuple[Tensor, ...] = (),
    final_norm: str | None = None,
    width: int | None = None,
) -> Around:
    return Around("layer", True, embedding, beside, final_norm, width=width)
