"""What a quantize job is asked to write, and what it measured of it. Knows nothing of how weights are rounded."""

from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from workers.contract.base import SPEC_VERSION, Contract, Priority, Slug, Version
from workers.contract.checkpoint import Layout, Stored
from workers.contract.resources import Resources, RetryPolicy, on_one_node

GROUP_SIZES = (32, 64, 128)
RESULT = "quantize"
"""Name of the Result event that carries a QuantizeReport."""


class QuantizeSpec(Contract):
    """Write a model, or base and adapter as one, with weights of 4 or 8 bits."""

    kind: Literal["quantize"] = "quantize"
    spec_version: Version = SPEC_VERSION
    name: str = Field(
        "", max_length=120, title="Job name", description="Shown in lists; made from the rest when empty."
    )
    model: Slug = Field(title="Model", description="Name of a model profile.")
    adapter: Slug | None = Field(None, title="Adapter", description="Added to the model's weights first.")
    method: Layout = Field(
        "gptq", title="Method", description="gptq: served on GPUs and CPUs; awq: by vLLM on a GPU, 4 bits only."
    )
    bits: Literal[4, 8] = Field(4, title="Bits", description="Of a weight.")
    group_size: Literal[32, 64, 128] = Field(
        128,
        title="Group size",
        description="Weights that share a scale: less is closer and larger. It must divide every layer's inputs.",
    )
    dataset: Slug | None = Field(
        None, title="Calibration dataset", description="Rows like those it is to serve; measured on its test split."
    )
    samples: int = Field(128, ge=1, le=4096, title="Samples", description="Sequences that it is calibrated on.")
    sequence_length: int = Field(512, ge=16, le=1_000_000, title="Sequence length", description="Tokens of a sample.")
    iterations: int = Field(
        200,
        ge=0,
        le=5000,
        title="Iterations",
        description="Of tuning how each weight is rounded; 0: to the nearest, faster.",
    )
    seed: int = Field(42, ge=0, le=2**32 - 1, title="Seed")
    result: Slug | None = Field(
        None, title="Result name", description="Name of the model this job makes; generated when empty."
    )
    priority: Priority = 0
    retry: RetryPolicy = Field(default_factory=RetryPolicy)
    resources: Resources = Field(default_factory=Resources)

    @property
    def stored(self) -> Stored:
        """The weights as it is to leave them."""
        return Stored(self.method, self.bits, self.group_size)

    def made(self, job: int) -> str:
        """Name of the model that the job of this number makes."""
        return self.result or f"{(self.adapter or self.model)[:40]}-{self.method}-{job}"

    @model_validator(mode="after")
    def _of_one_device(self) -> Self:
        on_one_node(self.resources, "a quantize job")
        if self.resources.devices > 1:
            raise ValueError(
                f"resources.devices: a quantize job takes one device, not {self.resources.devices}; use 1."
            )
        return self

    @model_validator(mode="after")
    def _of_bits_that_can_be_written(self) -> Self:
        if self.method == "awq" and self.bits != 4:
            raise ValueError(f"bits: AWQ has no layout for {self.bits} bits; use 4, or method gptq.")
        return self


class Figures(Contract):
    """A model, before or after. None for what could not be measured where the job ran."""

    bytes: int = Field(ge=0, description="Of its safetensors files.")
    perplexity: FiniteFloat | None = Field(None, ge=0, description="exp of the mean loss of a token, in nats.")
    tokens_per_s: FiniteFloat | None = Field(None, ge=0, description="Generated for one request.")


class QuantizeReport(Contract):
    """What a quantize job made, beside what it was made of. Both are measured on the same tokens and device."""

    before: Figures
    after: Figures
    unmeasured: str = Field("", max_length=500, description="Why figures of `after` are missing, in a sentence.")
    calibrated_on: str = Field(max_length=300, description="In words.")
    measured_on: str = Field(max_length=300, description="What the perplexity is of, in words.")
    device: str = Field(max_length=200)
    layers: int = Field(ge=0, description="Linear layers that were quantized.")
    parameters: int = Field(ge=0, description="Of those layers.")
    took_s: FiniteFloat = Field(ge=0, description="The quantizing alone.")

    @property
    def in_words(self) -> str:
        """'513 to 209 MB, perplexity 20.1 to 21.3, 12 to 9 tokens/s'; what wasn't measured is left out."""
        said = [f"{self.before.bytes / 1e6:.4g} to {self.after.bytes / 1e6:.4g} MB"]
        if self.before.perplexity is not None and self.after.perplexity is not None:
            said.append(f"perplexity {self.before.perplexity:.4g} to {self.after.perplexity:.4g}")
        if self.before.tokens_per_s is not None and self.after.tokens_per_s is not None:
            said.append(f"{self.before.tokens_per_s:.4g} to {self.after.tokens_per_s:.4g} tokens/s")
        return ", ".join(said)
