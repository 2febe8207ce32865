"""A Transformers config.json → a ModelShape, by family. A new family is one function and one line in FAMILIES.

Knows no weights and no files: the config is an object that was read elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from portal.planner.families import bert, deepseek, gemma, gpt, llama, mixture, others, phi
from portal.planner.families.facts import config_from_facts
from portal.planner.families.fields import Fields, shown
from portal.planner.shapes import ModelShape
from workers.contract.checkpoint import stored_as
from workers.contract.errors import Refused

__all__ = ["FAMILIES", "config_from_facts", "shape_from_config"]


@dataclass(frozen=True)
class Family:
    """How configs of one model_type are read."""

    build: Callable[[Fields], ModelShape]
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """The name of a field here → its other name in this family's configs."""


FAMILIES: dict[str, Family] = {
    "bert": Family(bert.bert, bert.BERT),
    "bloom": Family(gpt.bloom, gpt.BLOOM, gpt.BLOOM_NAMES),
    "cohere": Family(others.cohere, others.COHERE),
    "cohere2": Family(others.cohere, others.COHERE2),
    "deepseek_v2": Family(deepseek.deepseek, deepseek.DEEPSEEK_V2, {"n_routed_experts": "num_experts"}),
    "deepseek_v3": Family(deepseek.deepseek, deepseek.DEEPSEEK_V3, {"n_routed_experts": "num_local_experts"}),
    "falcon": Family(gpt.falcon, gpt.FALCON, gpt.FALCON_NAMES),
    "gemma": Family(gemma.gemma, gemma.GEMMA),
    "gemma2": Family(gemma.gemma2, gemma.GEMMA2),
    "gemma3_text": Family(gemma.gemma3, gemma.GEMMA3),
    "glm4": Family(others.glm4, others.GLM4),
    "glm4_moe": Family(others.glm4_moe, others.GLM4_MOE),
    "gpt2": Family(gpt.gpt2, gpt.GPT2, gpt.GPT2_NAMES),
    "gpt_neox": Family(gpt.gpt_neox, gpt.GPT_NEOX),
    "gpt_oss": Family(mixture.gpt_oss, mixture.GPT_OSS, {"num_local_experts": "num_experts"}),
    "granite": Family(llama.llama, llama.LLAMA),
    "llama": Family(llama.llama, llama.LLAMA),
    "ministral": Family(llama.ministral, llama.MISTRAL),
    "mistral": Family(llama.mistral, llama.MISTRAL),
    "mixtral": Family(mixture.mixtral, mixture.MIXTRAL, {"num_local_experts": "num_experts"}),
    "olmo2": Family(others.olmo2, others.OLMO2),
    "opt": Family(gpt.opt, gpt.OPT, gpt.OPT_NAMES),
    "phi": Family(phi.phi, phi.PHI),
    "phi3": Family(phi.phi3, phi.PHI3),
    "qwen2": Family(llama.qwen2, llama.QWEN2),
    "qwen2_moe": Family(mixture.qwen2_moe, mixture.QWEN2_MOE),
    "qwen3": Family(llama.qwen3, llama.QWEN3),
    "qwen3_moe": Family(mixture.qwen3_moe, mixture.QWEN3_MOE, {"num_experts": "num_local_experts"}),
    "roberta": Family(bert.bert, bert.ROBERTA),
    "smollm3": Family(llama.llama, llama.SMOLLM3),
    "starcoder2": Family(others.starcoder2, others.STARCODER2),
    "xlm-roberta": Family(bert.bert, bert.BERT),
}
TEXT_PARTS = {"gemma3": "gemma3_text", "llava": "llama", "mistral3": "mistral"}
"""Multimodal model_type → the family of its text part, where `text_config` doesn't name it."""
MOST_FIELDS = 2_000
MOST_PARAMETERS = 10**14
"""A hundred times the largest model of 2025; more is a slip of the keyboard."""
SHARED = ("tie_word_embeddings", "dtype", "torch_dtype")
"""Fields that a multimodal config may give for its text part too."""
LLAMA_LIKE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
"""Fields that an unknown family must have to be planned like a known one."""
LIKE: tuple[tuple[tuple[str, ...], str], ...] = (
    (("kv_lora_rank", "n_routed_experts"), "deepseek_v3"),
    (("n_routed_experts", "moe_intermediate_size"), "glm4_moe"),
    (("num_experts", "moe_intermediate_size"), "qwen3_moe"),
    (("num_local_experts",), "mixtral"),
    (("rms_norm_eps",), "llama"),
    (("num_key_value_heads",), "llama"),
)
"""What an unknown family's config has → the family it is planned like; the first that matches."""
NOT_ATTENTION = ("mamba", "ssm_", "linear_conv", "attn_layer", "hybrid_", "rwkv", "block_types", "full_attn")
"""How fields begin that tell of layers other than attention; such a model isn't planned like Llama."""


def shape_from_config(config: dict[str, Any], name: str) -> ModelShape:
    """The shape of the model that `config` (a parsed config.json) describes.

    A multimodal config is planned for its text part, and an unknown model_type with Llama's fields like the known
    family it resembles; `assumed` says so. Raises Refused at 'config' with one sentence for anything else.
    """
    if not isinstance(config, dict):
        raise Refused.at("config", shown(config), f"config: it is {shown(config)}, not an object with named fields.")
    if len(config) > MOST_FIELDS:
        raise Refused.at(
            "config", len(config), f"config: it has {len(config):,} fields; at most {MOST_FIELDS:,} are read."
        )
    kind, assumed, stored = _kind(config), "", stored_as(config)
    text = config.get("text_config")
    if kind not in FAMILIES and isinstance(text, dict):
        assumed = f"Only the text part of {shown(kind)} is planned, without its images or sound."
        config = {**{key: value for key, value in config.items() if key in SHARED}, **text}
        kind = _kind(text) or TEXT_PARTS.get(kind, kind)
    if kind not in FAMILIES:
        like = _resembled(config, kind)
        assumed = f"{assumed} {shown(kind)} is not a known family; its config is read like {like}'s.".strip()
    else:
        like = kind
    family = FAMILIES[like]
    shape = family.build(Fields(config, family.defaults, family.aliases))
    if shape.parameters > MOST_PARAMETERS:
        count = f"{shape.parameters:.1e}"
        raise Refused.at(
            "config", count, f"config: its sizes make {count} parameters; use at most {MOST_PARAMETERS:.0e}."
        )
    return replace(shape, name=name, family=kind or like, stored=stored, assumed=assumed)


def _kind(config: dict[str, Any]) -> str:
    kind = config.get("model_type")
    return kind[:80] if isinstance(kind, str) else ""


def _resembled(config: dict[str, Any], kind: str) -> str:
    """The known family that a config of an unknown one is read like. Raises Refused where there is none."""
    likely = next((family for needed, family in LIKE if all(config.get(name) is not None for name in needed)), None)
    if likely is None or any(config.get(name) is None for name in LLAMA_LIKE) or config.get("is_encoder_decoder"):
        known = ", ".join(FAMILIES)
        said = f"model_type {shown(kind)} is not a family" if kind else "it has no model_type"
        raise Refused.at("config", shown(kind), f"config: {said} that can be planned; known are {known}.")
    odd = next((name for name in config if isinstance(name, str) and name.startswith(NOT_ATTENTION)), None)
    if odd is not None:
        raise Refused.at(
            "config",
            shown(kind),
            f"config: {shown(kind)} has layers other than attention ({shown(odd)}), which can't be planned yet.",
        )
    fields = Fields(config, {})
    fields.windows(fields.whole("num_hidden_layers"))
    return likely
