"""What a model is made of: its tensors, layer by layer, and the counts that memory and time follow from.

Knows nothing of devices, methods or batches; how each family's config is read is portal.planner.families'.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

from workers.contract.checkpoint import Stored

Role = Literal["embedding", "position", "attention", "mlp", "expert", "router", "norm", "head", "other"]


@dataclass(frozen=True)
class Tensor:
    """`count` like parameters of a model. A linear layer's weight has the shape (out, in)."""

    name: str
    """Dotted path with the layer and expert numbers left out: 'layers.self_attn.q_proj.weight'."""
    shape: tuple[int, ...]
    count: int
    """How many there are in the whole model (layers × experts)."""
    role: Role
    linear: bool = False
    """The weight of a linear layer: what LoRA and quantization act on. Embeddings, norms and biases are not."""
    at: tuple[int, ...] = ()
    """Numbers of the layers that have it; () outside the layers."""

    @property
    def parameters(self) -> int:
        return self.count * prod(self.shape)


@dataclass(frozen=True)
class Attention:
    """One layer's attention. MLA (DeepSeek-V2, arXiv:2405.04434) has `kv_rank`; every other kind is MHA, GQA or MQA."""

    heads: int
    kv_heads: int
    head_dim: int
    """Width of a query or key of one head; for MLA the part without position plus the part with it."""
    value_dim: int
    """Width of a value of one head."""
    window: int | None = None
    """Tokens a sliding-window layer looks back; None: all of them."""
    kv_rank: int | None = None
    """MLA: width of the compressed key-value latent."""
    rope_dim: int | None = None
    """MLA: width of the shared rotary key."""
    q_rank: int | None = None
    """MLA: width of the compressed query; None when queries aren't compressed."""

    @property
    def kv_width(self) -> int:
        """Elements a token leaves in this layer's KV cache: keys and values, or MLA's latent and rotary key."""
        if self.kv_rank is not None:
            return self.kv_rank + (self.rope_dim or 0)
        return self.kv_heads * (self.head_dim + self.value_dim)


@dataclass(frozen=True)
class Mlp:
    """One layer's feed-forward part. Dense layers have `experts` 0."""

    width: int
    """Intermediate size of the dense MLP, or of one routed expert."""
    gated: bool
    """Gate and up projections (SwiGLU, GeGLU) instead of one."""
    experts: int = 0
    experts_per_token: int = 0
    shared_width: int = 0
    """Intermediate size of the shared experts together; every token passes them."""

    @property
    def active_width(self) -> int:
        """Intermediate elements computed for a token."""
        return self.width * (self.experts_per_token or 1) + self.shared_width


@dataclass(frozen=True)
class Layer:
    """`count` like transformer layers."""

    count: int
    attention: Attention
    mlp: Mlp
    parameters: int
    """Of one such layer, with all of its experts."""


@dataclass(frozen=True)
class ModelShape:
    """A model's architecture. Lengths in tokens, sizes in elements."""

    name: str
    family: str
    """Transformers' model_type: 'llama', 'deepseek_v3', 'gpt2', 'bert'…"""
    hidden: int
    vocab: int
    context: int
    """Longest sequence the model was made for, tokens."""
    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    tied: bool
    """The output head is the embedding matrix."""
    causal: bool = True
    """Decoder with a language-model head; False: an encoder such as BERT."""
    dtype: str = "bfloat16"
    """How its weights are published."""
    norm: Literal["rms", "layer"] = "rms"
    logits: bool = True
    """Whether the forward pass ends in scores over the vocabulary."""
    stored: Stored | None = None
    """How its weights lie where they are quantized already."""
    assumed: str = ""
    """What had to be assumed about the config, in one sentence; empty when its family is known."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Counted once: a shape is the key of many cached figures."""
        return hash((self.name, self.family, self.hidden, self.layers, self.tensors, self.stored))

    @cached_property
    def depth(self) -> int:
        """Transformer layers."""
        return sum(layer.count for layer in self.layers)

    @cached_property
    def parameters(self) -> int:
        """Every parameter once; a tied head is the embedding and doesn't count again."""
        return sum(tensor.parameters for tensor in self.tensors)

    @cached_property
    def linear_parameters(self) -> int:
        """Parameters of linear layers without the output head: what quantization shrinks."""
        return sum(t.parameters for t in self.tensors if t.linear and t.role != "head")

    @cached_property
    def active_parameters(self) -> int:
        """Parameters a token is multiplied with: as `parameters`, of the routed experts only those it is sent to."""
        idle = 0
        routed = sum(t.parameters for t in self.tensors if t.role == "expert")
        if routed:
            experts = max(layer.mlp.experts for layer in self.layers)
            chosen = max(layer.mlp.experts_per_token for layer in self.layers)
            idle = routed - routed * chosen // experts
        return self.parameters - idle

    @cached_property
    def heads(self) -> int:
        """Attention heads of a layer (the most that any layer has)."""
        return max(layer.attention.heads for layer in self.layers)

    @cached_property
    def kv_heads(self) -> int:
        """Key-value heads of a layer (the most that any layer has)."""
        return max(layer.attention.kv_heads for layer in self.layers)

    @cached_property
    def layer_parameters(self) -> int:
        """Parameters of the largest single layer."""
        return max(layer.parameters for layer in self.layers)

    def kv_elements(self, tokens: int) -> int:
        """Elements in the KV cache of one sequence of `tokens`; a sliding window keeps its last tokens only."""
        return sum(
            layer.count * layer.attention.kv_width * min(tokens, layer.attention.window or tokens)
            for layer in self.layers
        )
