"""A causal language model as a pipeline: its layers one after another, cut into stages by parameter count.

For the Llama block and what shares it. Samples are padded at their end, so that causal attention alone keeps padding
out: from stage to stage go hidden states and nothing else. Knows nothing of weights, data or training.
"""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from workers.contract.parallel import PIPELINED
from workers.runtimes.base import invalid
from workers.runtimes.finetune.samples import UNTRAINED

TIED = "embedding"


class Block(nn.Module):  # type: ignore[misc]  # the library is untyped
    """One decoder layer, which finds out positions and mask by itself."""

    def __init__(self, layer: type[nn.Module], rotary: type[nn.Module], config: Any, index: int) -> None:
        super().__init__()
        self.layer = layer(config, index)
        self._config = config
        # In a tuple it is none of this module's parts: its frequencies stay fp32 where the weights become bf16.
        self._rotary = (rotary(config=config),)
        self._mask = create_sliding_window_causal_mask if _slides(config, index) else create_causal_mask

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        mask = self._mask(
            config=self._config, inputs_embeds=hidden, attention_mask=None, cache=None, position_ids=positions
        )
        rotary = self._rotary[0].to(hidden.device)
        turns = rotary(hidden, position_ids=positions)
        found: torch.Tensor = self.layer(
            hidden, attention_mask=mask, position_ids=positions, position_embeddings=turns, use_cache=False
        )
        return found


def check_family(config: Any, stages: int) -> None:
    """Raises RunFailed for a model that can't be cut into so many stages."""
    if config.model_type not in PIPELINED:
        raise invalid(
            f"parallel.pipeline: a model of type {config.model_type} can't be cut into stages, only "
            f"{', '.join(PIPELINED)}; use 1."
        )
    if stages > config.num_hidden_layers:
        raise invalid(
            f"parallel.pipeline: {stages} stages are more than this model's {config.num_hidden_layers} layers; "
            f"use at most {config.num_hidden_layers}."
        )


def outline(config: Any, dtype: torch.dtype) -> Any:
    """The model without its weights: names, shapes and the settings that Transformers chooses."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def cut(model: Any, stages: int, dtype: torch.dtype, recompute: bool) -> Any:
    """A PipelineModule of the outlined model that holds this process's stage, its weights still anything at all."""
    from deepspeed.pipe import PipelineModule

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            module = PipelineModule(
                list(_layers(model.config)),
                num_stages=stages,
                loss_fn=weighed_loss,
                partition_method="parameters",
                activation_checkpoint_interval=1 if recompute else 0,
                activation_checkpoint_func=partial(checkpoint, use_reentrant=False),
                dynamic_shape=True,
            )
    finally:
        torch.set_default_dtype(before)
    for parameter in module.parameters():
        # Else DeepSpeed (0.19) clips gradients by the norm of the first stage's alone (runtime.utils.clip_grad_norm_).
        # A tied weight counts once: where it is first.
        parameter.model_parallel = not parameter.ds_pipe_replicated
    return module


def weighed_loss(scores: torch.Tensor, labels: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Sum over the trained tokens, times a weight: `labels` are the targets and that weight."""
    targets, weight = labels
    summed = cross_entropy(
        scores[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), ignore_index=UNTRAINED, reduction="sum"
    )
    return summed * weight


def checkpoint_name(name: str, layers: int) -> str:
    """What an ordinary checkpoint calls a parameter of a PipelineModule of so many decoder layers."""
    first, rest = name.split(".", 1)
    if first == "tied_modules":
        return f"model.embed_tokens.{rest.removeprefix(f'{TIED}.')}"
    place = int(first)
    if place == 0:
        return f"model.embed_tokens.{rest}"
    if place <= layers:
        return f"model.layers.{place - 1}.{rest.removeprefix('layer.')}"
    return f"model.norm.{rest}" if place == layers + 1 else f"lm_head.{rest}"


def _layers(config: Any) -> Iterator[Any]:
    """Embedding, decoder layers, norm, scores: as the family's own model has them."""
    from deepspeed.pipe import LayerSpec, TiedLayerSpec

    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    family, prefix = sys.modules[model.__module__], model.__name__.removesuffix("ForCausalLM")
    decoder, rotary, norm = (
        getattr(family, f"{prefix}{part}") for part in ("DecoderLayer", "RotaryEmbedding", "RMSNorm")
    )
    embedding = (nn.Embedding, config.vocab_size, config.hidden_size, config.pad_token_id)
    tied = config.tie_word_embeddings
    yield TiedLayerSpec(TIED, *embedding) if tied else LayerSpec(*embedding)
    for index in range(config.num_hidden_layers):
        yield LayerSpec(Block, decoder, rotary, config, index)
    yield LayerSpec(norm, config.hidden_size, config.rms_norm_eps)
    if tied:
        yield TiedLayerSpec(TIED, *embedding, forward_fn=_scores)
    else:
        yield LayerSpec(nn.Linear, config.hidden_size, config.vocab_size, bias=False)


def _scores(embedding: nn.Embedding, hidden: torch.Tensor) -> torch.Tensor:
    return linear(hidden, embedding.weight)


def _slides(config: Any, index: int) -> bool:
    kinds = getattr(config, "layer_types", None)
    return kinds[index] == "sliding_attention" if kinds else bool(getattr(config, "sliding_window", None))
