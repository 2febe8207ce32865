"""How a fine-tune spreads the model itself over devices, and what that can't be combined with.

What only a model's shape can forbid is the portal's to say. Knows no model.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from workers.contract.base import Contract

if TYPE_CHECKING:
    from workers.contract.finetune import FinetuneSpec


PIPELINED = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers can be cut into stages: they share the Llama block."""


class ParallelSettings(Contract):
    """One copy of the model takes tensor x pipeline devices; what devices are left train further copies of it."""

    tensor: int = Field(
        1, ge=1, le=64, title="Tensor parallel", description="Devices of a node that share every layer; 1: none."
    )
    pipeline: int = Field(
        1,
        ge=1,
        le=64,
        title="Pipeline stages",
        description="Devices that each hold some of the layers; method full only. More micro batches, less waiting.",
    )

    @property
    def split(self) -> int:
        """Devices of one copy of the model."""
        return self.tensor * self.pipeline


def refusals(spec: "FinetuneSpec") -> Iterator[str]:
    """Why the model can't be spread as the spec says, a sentence each that names its field."""
    parallel, resources = spec.parallel, spec.resources
    if parallel.tensor > 1 and parallel.pipeline > 1:
        yield (
            f"parallel.pipeline: {parallel.pipeline} stages can't be combined with {parallel.tensor} tensor-parallel "
            "devices; leave one of the two at 1."
        )
    devices = resources.devices * resources.nodes
    if devices % parallel.split:
        yield (
            f"resources.devices: {devices} can't be shared by copies of the model that take {parallel.split} each; "
            f"use a multiple of {parallel.split}."
        )
    elif resources.devices % parallel.tensor:
        yield (
            f"parallel.tensor: {parallel.tensor} devices have to be on one node, and the job asks for "
            f"{resources.devices} a node; use a number that divides it."
        )
    if parallel.tensor > 1:
        yield from _with_tensors(spec)
    if parallel.pipeline > 1:
        yield from _with_stages(spec)


def _with_tensors(spec: "FinetuneSpec") -> Iterator[str]:
    degree = f"{spec.parallel.tensor} tensor-parallel devices"
    if spec.deepspeed is not None:
        yield (
            f"deepspeed.zero_stage: {spec.deepspeed.zero_stage} can't be combined with {degree}, over which PyTorch "
            "shards the model itself; leave DeepSpeed off."
        )
    if spec.method == "qlora":
        yield f"method: the 4-bit weights of qlora can't be shared by {degree}; use lora, or parallel.tensor 1."
    if spec.method == "lora" and spec.lora.variant == "dora":
        yield f"lora.variant: dora needs whole weights, which {degree} haven't; use lora or rslora."
    if spec.method == "lora" and spec.data_parallel > 1:
        yield (
            f"parallel.tensor: with lora every device has to be one of the {spec.parallel.tensor}, and the job asks "
            f"for {spec.resources.devices * spec.resources.nodes}; use as many devices, or method full."
        )
    yield from _neither(spec, degree)


def _with_stages(spec: "FinetuneSpec") -> Iterator[str]:
    stages = f"a pipeline of {spec.parallel.pipeline} stages"
    if spec.deepspeed is not None and spec.deepspeed.zero_stage >= 2:
        yield (f"deepspeed.zero_stage: {spec.deepspeed.zero_stage} can't be combined with {stages}; use stage 0 or 1.")
    if spec.deepspeed is not None and spec.deepspeed.offload_optimizer != "none":
        yield f"deepspeed.offload_optimizer: not with {stages}; turn it off."
    if spec.method != "full":
        yield f"method: {spec.method} can't be trained in {stages}; use full, or parallel.pipeline 1."
    if spec.packing:
        yield f"packing: not in {stages}, whose later stages don't know where samples begin; turn it off."
    if spec.checkpoints.evaluate:
        yield f"checkpoints.evaluate: no process of {stages} has the whole model to score; turn it off."
    if spec.data.streaming == "off":
        yield f"data.streaming: {stages} always reads its data while it trains; use auto or on."
    yield from _neither(spec, stages)


def _neither(spec: "FinetuneSpec", split: str) -> Iterator[str]:
    if spec.precision in ("fp16", "fp8"):
        yield f"precision: {spec.precision} doesn't work over {split}; use bf16, fp32 or auto."
    if spec.precision == "fp8":
        yield f"precision: fp8 can't be combined with {split}; use bf16, fp32 or auto."
