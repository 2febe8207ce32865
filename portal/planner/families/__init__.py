"""A Transformers config.json → a ModelShape, by family. A new family is one function and one line in FAMILIES.

Knows no weights and no files: the config is an object that was read elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from portal.planner.families import llama
from portal.planner.families.fields import Fields, shown
from portal.planner.shapes import ModelShape
from workers.contract.errors import Refused


@dataclass(frozen=True)
class Family:
    """How configs of one model_type are read."""

    build: Callable[[Fields], ModelShape]
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Llama's name of a field → this family's."""


FAMILIES: dict[str, Family] = {
    "llama": Family(llama.llama, llama.LLAMA),
    "mistral": Family(llama.mistral, llama.MISTRAL),
    "qwen2": Family(llama.qwen2, llama.QWEN2),
    "qwen3": Family(llama.qwen3, llama.QWEN3),
}
LLAMA_LIKE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
"""Fields that an unknown family must have to be planned as if it were Llama."""


def shape_from_config(config: dict[str, Any], name: str) -> ModelShape:
    """The shape of the model that `config` (a parsed config.json) describes.

    A multimodal config is planned for its text part. An unknown model_type with Llama's fields is planned as Llama;
    both are said in `assumed`. Raises Refused at 'config' with one sentence for anything else.
    """
    if not isinstance(config, dict):
        raise Refused.at("config", shown(config), f"config: it is {shown(config)}, not an object with named fields.")
    kind = config.get("model_type")
    if not isinstance(kind, str):
        kind = ""
    assumed = ""
    family = FAMILIES.get(kind)
    if family is None:
        if any(config.get(field) is None for field in LLAMA_LIKE):
            known = ", ".join(sorted(FAMILIES))
            raise Refused.at("config", kind, f"config: model_type {shown(kind)} is not a known family; use {known}.")
        family = FAMILIES["llama"]
        assumed = f"{shown(kind)} is not a known family; its fields are read as Llama's."
    shape = family.build(Fields(config, family.defaults, family.aliases))
    return replace(shape, name=name, family=kind, assumed=assumed)
