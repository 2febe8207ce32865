"""Layers put together into a ModelShape: one layer's tensors, how many such layers, and what lies around them.

Knows the parts every family is made of (attention with GQA, MLPs, norms), not which family has which.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from portal.planner.families.fields import Fields
from portal.planner.shapes import Attention, Layer, Mlp, ModelShape, Role, Tensor
from workers.contract.errors import Refused

Kind = TypeVar("Kind")
"""What tells layers of one model apart: a window, dense or mixture; hashable."""


@dataclass(frozen=True)
class Sizes:
    """The numbers that every decoder has, under Llama's field names."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int

    @classmethod
    def of(cls, fields: Fields, heads_are: Literal["grouped", "classic", "latent"] = "grouped") -> "Sizes":
        """As Transformers reads them.

        Heads that are 'grouped' have key-value heads, as many where nothing is said, and a width of hidden / heads
        where none is given. 'classic' heads, GPT-2's, are always that wide, and an MLP that isn't given has
        4 × hidden. 'latent' heads have their widths in other fields.
        """
        hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
        kv_heads = None if heads_are == "latent" else fields.optional("num_key_value_heads")
        if kv_heads and heads % kv_heads:
            raise fields.refused("num_key_value_heads", f"must divide the {heads} attention heads")
        head_dim = fields.optional("head_dim") if heads_are == "grouped" else None
        if head_dim is None and heads_are != "latent" and hidden % heads:
            raise fields.refused("hidden_size", f"must be divisible by the {heads} attention heads")
        intermediate = fields.optional("intermediate_size") or 4 * hidden if heads_are == "classic" else None
        return cls(
            hidden=hidden,
            layers=fields.whole("num_hidden_layers"),
            heads=heads,
            kv_heads=kv_heads or heads,
            head_dim=head_dim or hidden // heads,
            intermediate=intermediate or fields.whole("intermediate_size"),
            vocab=fields.whole("vocab_size"),
            context=fields.whole("max_position_embeddings"),
        )


@dataclass
class Block:
    """The tensors of one layer, named inside it; `norm_bias`: LayerNorm, not RMSNorm."""

    norm_bias: bool = False
    tensors: list[Tensor] = field(default_factory=list)

    def linear(self, name: str, out: int, into: int, role: Role, bias: bool = False, count: int = 1) -> None:
        """`count` linear layers from `into` to `out` elements."""
        self.tensors.append(Tensor(f"{name}.weight", (out, into), count, role, linear=True))
        if bias:
            self.tensors.append(Tensor(f"{name}.bias", (out,), count, role))

    def norm(self, name: str, width: int) -> None:
        self.tensors.append(Tensor(f"{name}.weight", (width,), 1, "norm"))
        if self.norm_bias:
            self.tensors.append(Tensor(f"{name}.bias", (width,), 1, "norm"))

    def plain(self, name: str, shape: tuple[int, ...], role: Role) -> None:
        """A parameter that is no linear layer's."""
        self.tensors.append(Tensor(name, shape, 1, role))

    def grouped_attention(
        self,
        sizes: Sizes,
        window: int | None = None,
        bias: bool = False,
        out_bias: bool | None = None,
        out_name: str = "o_proj",
    ) -> Attention:
        """Separate query, key and value projections: MHA, GQA (arXiv:2305.13245) or MQA (arXiv:1911.02150)."""
        queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        for name, width in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            self.linear(f"self_attn.{name}", width, sizes.hidden, "attention", bias)
        out_bias = bias if out_bias is None else out_bias
        self.linear(f"self_attn.{out_name}", sizes.hidden, queries, "attention", out_bias)
        return Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.head_dim, window)

    def gated(
        self, prefix: str, hidden: int, width: int, role: Role = "mlp", bias: bool = False, count: int = 1
    ) -> Mlp:
        """Gate, up and down projections (SwiGLU and GeGLU, arXiv:2002.05202)."""
        self.linear(f"{prefix}.gate_proj", width, hidden, role, bias, count)
        self.linear(f"{prefix}.up_proj", width, hidden, role, bias, count)
        self.linear(f"{prefix}.down_proj", hidden, width, role, bias, count)
        return Mlp(width, gated=True)

    def plain_mlp(self, up: str, down: str, hidden: int, width: int, bias: bool = True) -> Mlp:
        """Two projections with an activation between them."""
        self.linear(up, width, hidden, "mlp", bias)
        self.linear(down, hidden, width, "mlp", bias)
        return Mlp(width, gated=False)


Made = tuple[Attention, Mlp, Block]


def stacked(kinds: Iterable[Kind], make: Callable[[Kind], Made]) -> tuple[tuple[Layer, ...], list[Tensor]]:
    """One layer made for each kind, and the tensors of all of them under 'layers.' with their counts added up."""
    layers: list[Layer] = []
    merged: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    places: dict[Kind, list[int]] = {}
    for number, kind in enumerate(kinds):
        places.setdefault(kind, []).append(number)
    for kind, numbers in places.items():
        attention, mlp, block = make(kind)
        layers.append(Layer(len(numbers), attention, mlp, sum(tensor.parameters for tensor in block.tensors)))
        for tensor in block.tensors:
            name = f"layers.{tensor.name}"
            before = merged.get((name, tensor.shape))
            total = tensor.count * len(numbers) + (before.count if before else 0)
            at = tuple(sorted((*numbers, *(before.at if before else ()))))
            merged[name, tensor.shape] = replace(tensor, name=name, count=total, at=at)
    return tuple(layers), list(merged.values())


@dataclass(frozen=True)
class Around:
    """What lies around the layers of a decoder, where it isn't as in Llama."""

    norm: Literal["rms", "layer"] = "rms"
    norm_bias: bool = False
    embedding: str = "embed_tokens"
    beside: tuple[Tensor, ...] = ()
    """After the embedding: positions, a norm, projections."""
    final_norm: str | None = "norm"
    head_bias: bool = False
    width: int | None = None
    """Of the embedding and the head, where it isn't the hidden size."""


def decoder(
    fields: Fields, sizes: Sizes, layers: tuple[Layer, ...], inside: list[Tensor], around: Around | None = None
) -> ModelShape:
    """A causal language model: embedding, layers, final norm, and a head unless it is tied.

    Name and family are left to the caller.
    """
    around = around or Around()
    vocab, width = sizes.vocab, around.width or sizes.hidden
    embedding = Tensor(f"{around.embedding}.weight", (vocab, width), 1, "embedding")
    last = Block(around.norm_bias)
    if around.final_norm:
        last.norm(around.final_norm, sizes.hidden)
    tied = fields.flag("tie_word_embeddings")
    if not tied:
        last.linear("lm_head", vocab, width, "head")
    if around.head_bias:
        last.plain("lm_head.bias", (vocab,), "head")
    return ModelShape(
        name="",
        family="",
        hidden=sizes.hidden,
        vocab=vocab,
        context=sizes.context,
        layers=layers,
        tensors=(embedding, *around.beside, *inside, *last.tensors),
        tied=tied,
        dtype=fields.dtype(),
        norm=around.norm,
    )


def not_more(fields: Fields, fewer: str, more: str) -> None:
    """Refuse a config whose `fewer` is more than its `more`."""
    few, many = fields.whole(fewer), fields.whole(more)
    if few > many:
        raise Refused.at(
            "config", few, f"config: {fields.named(fewer)} is {few}; it must be at most {fields.named(more)}, {many}."
        )
