"""BERT and RoBERTa: encoders. Counted as Transformers' AutoModel builds them, with the pooler and without a head.

Defaults are those of Transformers 5.24's config classes. Knows no decoders.
"""

from typing import Any

from portal.planner.families.fields import Fields
from portal.planner.families.stack import Block, Made, Sizes, stacked
from portal.planner.shapes import Attention, ModelShape

BERT: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
ROBERTA: dict[str, Any] = {**BERT, "vocab_size": 50265}
XLM_ROBERTA: dict[str, Any] = {**BERT, "vocab_size": 30522}


def bert(fields: Fields) -> ModelShape:
    """BERT (arXiv:1810.04805) and RoBERTa (arXiv:1907.11692), which has its tensors."""
    sizes = Sizes.of(fields, "classic")
    hidden = sizes.hidden

    def layer(_: None) -> Made:
        block = Block(norm_bias=True)
        for name in ("query", "key", "value"):
            block.linear(f"attention.self.{name}", hidden, hidden, "attention", bias=True)
        block.linear("attention.output.dense", hidden, hidden, "attention", bias=True)
        block.norm("attention.output.LayerNorm", hidden)
        mlp = block.plain_mlp("intermediate.dense", "output.dense", hidden, sizes.intermediate)
        block.norm("output.LayerNorm", hidden)
        return Attention(sizes.heads, sizes.heads, sizes.head_dim, sizes.head_dim), mlp, block

    layers, inside = stacked([None] * sizes.layers, layer)
    before = Block(norm_bias=True)
    before.plain("embeddings.word_embeddings.weight", (sizes.vocab, hidden), "embedding")
    before.plain("embeddings.position_embeddings.weight", (sizes.context, hidden), "position")
    before.plain("embeddings.token_type_embeddings.weight", (fields.whole("type_vocab_size"), hidden), "position")
    before.norm("embeddings.LayerNorm", hidden)
    after = Block()
    after.linear("pooler.dense", hidden, hidden, "other", bias=True)
    return ModelShape(
        name="",
        family="",
        hidden=hidden,
        vocab=sizes.vocab,
        context=sizes.context,
        layers=layers,
        tensors=(*before.tensors, *inside, *after.tensors),
        tied=False,
        causal=False,
        dtype=fields.dtype(),
        norm="layer",
        logits=False,
    )
