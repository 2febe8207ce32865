"""What is asked of the planner: the goal, the sizes, and what is fixed already. One model for form, REST and command.

Names are resolved elsewhere: the planner gets the ModelShape and the Fleet. Knows no hardware.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from workers.contract.base import Contract

Goal = Literal["infer", "lora", "qlora", "full"]
Kind = Literal["infer", "lora", "qlora", "full", "partial"]
"""A goal, where full is told apart from training named layers only."""
Number = Literal["fp32", "bf16", "fp16"]
Quantized = Literal["none", "int8", "nf4", "awq", "gptq", "fp8"]
AttentionKernel = Literal["eager", "sdpa", "flash"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]


class Workload(Contract):
    """What has to be done, whatever the way. Lengths in tokens."""

    goal: Goal = Field("lora", title="Goal", description="infer, lora, qlora or full (fine-tune every parameter).")
    context: int = Field(2048, ge=1, le=100_000_000, title="Context", description="Tokens of a sequence.")
    batch: int = Field(
        8, ge=1, le=1_000_000, title="Global batch", description="Sequences per optimizer step, over all devices."
    )
    concurrency: int = Field(
        1, ge=1, le=1_000_000, title="Concurrency", description="Requests served at once; inference only."
    )
    lora_rank: int = Field(16, ge=1, le=4096, title="LoRA rank")
    lora_targets: str = Field(
        "all-linear", max_length=400, title="LoRA targets", description="'all-linear', or layer names with commas."
    )
    trained_tokens: int = Field(
        0, ge=0, le=10**15, title="Tokens to train", description="For the whole run's time and cost; 0: not asked."
    )
    trained_layers: str = Field(
        "",
        max_length=400,
        title="Trained layers",
        description="Goal full: only these, by name or pattern with commas, e.g. layers.29.*; empty: every parameter.",
    )
    preference: bool = Field(
        False,
        title="Preference tuning",
        description="A sample is a chosen and a rejected sequence, measured against the model as it was (DPO).",
    )

    @property
    def layers(self) -> str:
        """The layers that alone are trained themselves; '' for all."""
        return self.trained_layers.strip() if self.goal == "full" else ""

    @property
    def kind(self) -> Kind:
        return "partial" if self.layers else self.goal

    @property
    def sequences(self) -> int:
        """Sequences of one sample."""
        return 2 if self.preference else 1


class Fixed(Contract):
    """Choices that are made already; what is None is for the planner to choose."""

    precision: Number | None = None
    quantization: Quantized | None = None
    zero_stage: Literal[0, 1, 2, 3] | None = None
    offload_optimizer: bool | None = None
    offload_parameters: bool | None = None
    tensor_parallel: int | None = Field(None, ge=1, le=1024)
    pipeline_parallel: int | None = Field(None, ge=1, le=1024)
    data_parallel: int | None = Field(None, ge=1, le=100_000)
    micro_batch: int | None = Field(None, ge=1, le=4096, description="Sequences per device and forward pass.")
    gradient_checkpointing: bool | None = None
    attention: AttentionKernel | None = None
    optimizer: Optimizer | None = None
    kv_cache: Literal["fp32", "bf16", "fp16", "int8"] | None = None


class PlanRequest(Contract):
    """A question to the planner, names still unresolved."""

    model: str = Field(min_length=1, max_length=200, title="Model", description="A profile's or a built-in name.")
    hardware: str = Field(
        "fleet", min_length=1, max_length=200, title="Hardware", description="'fleet', a node, or a built-in name."
    )
    nodes: int = Field(1, ge=1, le=100_000, title="Nodes", description="How many of the named hardware's nodes.")
    workload: Workload = Field(default_factory=Workload)
    fixed: Fixed = Field(default_factory=Fixed)
    limit: int = Field(5, ge=1, le=50, title="Plans", description="How many plans to return, best first.")

    @model_validator(mode="after")
    def _eight_bits_are_frozen(self) -> Self:
        if self.workload.goal == "full" and self.fixed.quantization not in (None, "none"):
            raise ValueError(
                f"fixed.quantization: {self.fixed.quantization} weights can't be trained; use none, or the goal qlora."
            )
        return self


class Method(Contract):
    """One complete way to do it: a point of the search. `data` is data-parallel replicas, so devices = t × p × d."""

    precision: Number = "bf16"
    quantization: Quantized = "none"
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    micro_batch: int = 1
    accumulation: int = 1
    checkpointing: bool = False
    attention: AttentionKernel = "sdpa"
    optimizer: Optimizer = "adamw"
    kv_cache: Literal["fp32", "bf16", "fp16", "int8"] = "bf16"

    @property
    def devices(self) -> int:
        return self.tensor * self.pipeline * self.data
