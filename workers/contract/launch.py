"""What a launch is asked to serve, and how. Knows nothing of the model that its name leads to."""

from typing import Literal, Self

from pydantic import Field, model_validator

from workers.contract.base import SPEC_VERSION, Contract, Precision, Priority, Slug, Version
from workers.contract.resources import Resources, RetryPolicy, on_one_node

Quantization = Literal["none", "int8", "nf4", "torchao_int8", "torchao_int4", "fp8"]
EngineName = Literal["auto", "transformers", "vllm", "llama_cpp"]
Offload = Literal["none", "cpu", "disk"]


class LaunchSpec(Contract):
    """Serve a base model, or a base model with an adapter, until stopped."""

    kind: Literal["launch"] = "launch"
    spec_version: Version = SPEC_VERSION
    name: str = Field(
        "", max_length=120, title="Job name", description="Shown in lists; made from the model when empty."
    )
    model: Slug = Field(title="Model", description="Name of a model profile.")
    adapter: Slug | None = Field(None, title="Adapter", description="Name of an adapter made for this model.")
    engine: EngineName = Field(
        "auto", title="Engine", description="auto: what suits the model and the node; its reason is on the job's page."
    )
    quantization: Quantization = Field(
        "none",
        title="Quantization",
        description="Done while loading. int8, nf4: 8- and 4-bit weights (bitsandbytes); torchao_int8, torchao_int4: "
        "by torchao; fp8: by vLLM, on a GPU.",
    )
    precision: Precision = Field("auto", title="Precision", description="auto: bf16 on GPUs that have it, else fp32.")
    context_length: int = Field(
        2048, ge=8, le=10_000_000, title="Context length", description="Prompt plus answer, tokens."
    )
    max_concurrency: int = Field(
        16,
        ge=1,
        le=1024,
        title="Max concurrency",
        description="Answers made at a time; fewer where memory holds the keys and values of fewer.",
    )
    queue: int = Field(
        32, ge=0, le=10_000, title="Queue", description="Requests that may wait beyond those; more are refused at once."
    )
    drain_s: float = Field(
        10,
        ge=0,
        le=600,
        title="Drain",
        description="Seconds that answers under way may still take when the launch is stopped.",
    )
    device_memory_gib: float = Field(
        0, ge=0, le=2048, title="Memory for weights", description="Per device, GiB; 0: all of it. Needs an offload."
    )
    offload: Offload = Field(
        "none", title="Offload", description="Where layers go that are beyond the memory for weights; much slower."
    )
    max_tokens: int = Field(256, ge=1, le=1_000_000, title="Max tokens", description="Default length of an answer.")
    temperature: float = Field(0.7, ge=0, le=2, title="Temperature", description="0 is greedy.")
    top_p: float = Field(0.9, gt=0, le=1, title="Top p", description="Nucleus sampling mass.")
    seed: int = Field(42, ge=0, le=2**32 - 1, title="Seed")
    replicas: int = Field(
        1, ge=1, le=64, title="Replicas", description="So many copies, each a job; a request goes to the idlest."
    )
    idle_stop_minutes: int = Field(
        0,
        ge=0,
        le=525_600,
        title="Stop when idle",
        description="After so many minutes without a request; the next one starts it again. 0: never.",
    )
    skip_preflight: bool = Field(
        False, title="Skip preflight", description="Load the model without checking first that the node is ready."
    )
    priority: Priority = 0
    retry: RetryPolicy = Field(
        default_factory=lambda: RetryPolicy(max_attempts=5, after_kill=True, after_crash=True),
        description="An attempt that ran well for ten minutes begins the count anew.",
    )
    resources: Resources = Field(default_factory=Resources)

    @model_validator(mode="after")
    def _of_one_node(self) -> Self:
        on_one_node(self.resources, "a launch")
        return self

    @model_validator(mode="after")
    def _quantized_by_its_engine(self) -> Self:
        if self.quantization == "fp8" and self.engine not in ("auto", "vllm"):
            raise ValueError(
                f"quantization: fp8 is done by vLLM, not by {self.engine}; use the engine vllm or auto, or int8."
            )
        return self

    @model_validator(mode="after")
    def _offloads_what_is_beyond(self) -> Self:
        if (self.offload == "none") != (self.device_memory_gib == 0):
            raise ValueError(
                f"offload: {self.offload!r} and device_memory_gib {self.device_memory_gib:g} don't go together; give "
                "both, or neither (none and 0)."
            )
        return self

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> Self:
        if self.max_tokens >= self.context_length:
            raise ValueError(
                f"max_tokens: {self.max_tokens} leaves no room for a prompt in a context of "
                f"{self.context_length} tokens; use at most {self.context_length - 1}."
            )
        return self
