"""What an export is asked to write: a model of the catalog, with an adapter in it or as it is, in one of two formats.

Knows nothing of what its names lead to.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from workers.contract.base import SPEC_VERSION, Contract, Priority, Slug, Version
from workers.contract.resources import Resources, RetryPolicy, on_one_node

GGUF_FAMILIES = ("llama",)
"""Model types that can be written as GGUF."""
GGUF_FILE = "model.gguf"
"""Of a run's output, and of the artifact that it becomes."""

ExportFormat = Literal["safetensors", "gguf"]


class ExportSpec(Contract):
    """Write a model, or base and adapter as one, for programs that know no adapters."""

    kind: Literal["export"] = "export"
    spec_version: Version = SPEC_VERSION
    name: str = Field(
        "", max_length=120, title="Job name", description="Shown in lists; made from the rest when empty."
    )
    model: Slug = Field(title="Model", description="Name of a model profile.")
    adapter: Slug | None = Field(None, title="Adapter", description="Added to the model's weights.")
    format: ExportFormat = Field(
        "safetensors",
        title="Format",
        description="safetensors: a Transformers folder; gguf: one file for llama.cpp, Llama family only.",
    )
    result: Slug | None = Field(
        None, title="Result name", description="Name of the model this job makes; generated when empty."
    )
    priority: Priority = 0
    retry: RetryPolicy = Field(default_factory=RetryPolicy)
    resources: Resources = Field(default_factory=Resources)

    def made(self, job: int) -> str:
        """Name of the model that the job of this number makes."""
        return self.result or f"{(self.adapter or self.model)[:40]}-{self.format}-{job}"

    @model_validator(mode="after")
    def _of_one_device(self) -> Self:
        on_one_node(self.resources, "an export")
        if self.resources.devices > 1:
            raise ValueError(
                f"resources.devices: an export takes one device, not {self.resources.devices}; it works in the node's "
                "memory."
            )
        return self


def gguf_refusal(config: dict[str, Any]) -> str:
    """Why a model of this config can't be written as GGUF, in one sentence; '' where it can.

    `config`: its config.json, or the architecture's own fields of a GGUF file's header.
    """
    family = config.get("model_type") or config.get("general.architecture") or "nameless"
    if family not in GGUF_FAMILIES:
        return f"a {family} model can't be written as GGUF here, only {' and '.join(GGUF_FAMILIES)}."
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind != "default":
        return f"its positions are scaled ({kind}), which this writer doesn't know."
    return ""
