"""What a fine-tune is asked to do. Knows nothing of the models and datasets that its names lead to."""

from typing import Literal, Self

from pydantic import Field, model_validator

from workers.contract.base import SPEC_VERSION, Contract, Priority, Slug, Version
from workers.contract.deepspeed import DeepSpeedSettings
from workers.contract.numerics import NumericsSettings, TrainPrecision
from workers.contract.objectives import DpoSettings, Objective
from workers.contract.parallel import ParallelSettings, refusals
from workers.contract.resources import Resources, RetryPolicy

TuneMethod = Literal["lora", "qlora", "full", "partial"]


class LoraSettings(Contract):
    """Low-rank adaptation (Hu et al. 2021): W + (alpha / rank) * B A."""

    rank: int = Field(16, ge=1, le=512, title="LoRA rank")
    alpha: float = Field(
        32, gt=0, le=2048, title="LoRA alpha", description="Scale; the update is multiplied by alpha / rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, title="LoRA dropout")
    target_modules: str = Field(
        "all-linear",
        min_length=1,
        max_length=400,
        title="Target modules",
        description="'all-linear', or names or patterns with commas: q_proj, layers.1?.mlp.*.",
    )
    variant: Literal["lora", "dora", "rslora"] = Field(
        "lora",
        title="LoRA variant",
        description="dora: also trains each weight's magnitude; rslora: scales by alpha / sqrt(rank), for large ranks.",
    )


class DataSettings(Contract):
    """How the training split is read and put into batches."""

    streaming: Literal["auto", "on", "off"] = Field(
        "auto",
        title="Streaming",
        description="Read the data while training, not into memory before; auto: when unzipped it is over 256 MiB.",
    )
    workers: int = Field(
        4,
        ge=0,
        le=64,
        title="Data workers",
        description="Processes that read streamed data for each device, never more than the cores allow; "
        "the order of the samples depends on this number.",
    )
    shuffle_buffer: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        title="Shuffle buffer",
        description="Streamed rows that a worker shuffles, sorts or packs at a time; 1 keeps their order.",
    )
    batching: Literal["by_length", "shuffled"] = Field(
        "by_length",
        title="Batching",
        description="by_length: samples of like length together, so that little is padding; shuffled: by chance alone.",
    )


class CheckpointSettings(Contract):
    """Which checkpoints stay, and how they are judged."""

    keep_last: int = Field(
        2, ge=2, le=100, title="Keep last", description="Newest checkpoints that stay, on the node and in the store."
    )
    keep_best: bool = Field(
        False,
        title="Keep the best",
        description="Besides, the one of lowest loss: on the test split where each is scored, else in training.",
    )
    evaluate: bool = Field(
        False, title="Score each checkpoint", description="On the test split; drawn as eval_loss beside the loss."
    )


class FinetuneSpec(Contract):
    """Fine-tune a model on a dataset: adapters on it, all of it, or some of its layers."""

    kind: Literal["finetune"] = "finetune"
    spec_version: Version = SPEC_VERSION
    name: str = Field(
        "", max_length=120, title="Job name", description="Shown in lists; made from the model and dataset when empty."
    )
    model: Slug = Field(title="Model", description="Name of a model profile.")
    dataset: Slug = Field(title="Dataset", description="Name of a dataset.")
    adapter: Slug | None = Field(
        None, title="Result name", description="Name of the adapter or model this job makes; generated when empty."
    )
    objective: Objective = Field(
        "sft",
        title="Objective",
        description="sft: loss on answers alone; pretraining: on every token of text; dpo: prefer chosen to rejected.",
    )
    method: TuneMethod = Field(
        "lora",
        title="Method",
        description="lora: adapters; qlora: adapters on 4-bit weights; full: every parameter; partial: named layers.",
    )
    trained_layers: str = Field(
        "",
        max_length=400,
        title="Trained layers",
        description="Method partial: names or patterns with commas, e.g. layers.29.*, lm_head.",
    )

    save_merged: bool = Field(
        False,
        title="Also save the merged model",
        description="Base and adapter as one model in safetensors, listed under the same name; method lora only.",
    )
    save_gguf: bool = Field(
        False, title="Also save as GGUF", description="The whole model in one file for llama.cpp; Llama family only."
    )

    epochs: float = Field(
        1.0, gt=0, le=1000, title="Epochs", description="Passes over the training split; ignored when max steps is set."
    )
    max_steps: int = Field(
        0, ge=0, le=10_000_000, title="Max steps", description="Optimizer steps; 0 trains by epochs."
    )
    micro_batch: int = Field(4, ge=1, le=4096, title="Micro batch", description="Samples per device and forward pass.")
    gradient_accumulation: int = Field(
        1, ge=1, le=4096, title="Gradient accumulation", description="Micro batches per optimizer step."
    )
    context_length: int = Field(
        512,
        ge=8,
        le=10_000_000,
        title="Context length",
        description="Tokens per sample; what is longer is cut, plain text is divided.",
    )
    learning_rate: float = Field(2e-4, gt=0, le=1, title="Learning rate", description="Peak, after warm-up.")
    warmup_ratio: float = Field(
        0.03, ge=0, lt=1, title="Warm-up ratio", description="Share of the steps over which the rate rises linearly."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", title="Schedule")
    beta1: float = Field(0.9, ge=0, lt=1, title="AdamW beta 1")
    beta2: float = Field(0.95, ge=0, lt=1, title="AdamW beta 2")
    weight_decay: float = Field(0.0, ge=0, le=1, title="Weight decay")
    max_grad_norm: float = Field(
        1.0, gt=0, le=1000, title="Gradient clipping", description="Largest global gradient norm."
    )
    precision: TrainPrecision = Field(
        "auto",
        title="Precision",
        description="auto: bf16 on GPUs that have it, fp16 on others, fp32 on a CPU; fp8: on Ada, Hopper and newer.",
    )
    gradient_checkpointing: bool = Field(
        False, title="Gradient checkpointing", description="Recompute activations: less memory, about a third slower."
    )
    packing: bool = Field(
        False,
        title="Packing",
        description="Fill each sequence with several samples, none of which sees the others.",
    )
    seed: int = Field(42, ge=0, le=2**32 - 1, title="Seed")
    log_every: int = Field(1, ge=1, le=10_000, title="Log every", description="Optimizer steps between metric points.")
    evaluate: bool = Field(True, title="Evaluate before and after", description="On the held-out test split.")
    eval_limit: int = Field(
        200, ge=1, le=100_000, title="Evaluation rows", description="Rows of the test split used, at most."
    )

    checkpoint_every: int = Field(
        0, ge=0, le=10_000_000, title="Checkpoint every", description="Optimizer steps; 0 checkpoints on a stop only."
    )
    priority: Priority = 0
    preemptible: bool = Field(
        False,
        title="Preemptible",
        description="A job of higher priority may stop it at a checkpoint; it goes on later.",
    )
    retry: RetryPolicy = Field(default_factory=RetryPolicy)
    checkpoints: CheckpointSettings = Field(default_factory=CheckpointSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    dpo: DpoSettings = Field(default_factory=DpoSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    deepspeed: DeepSpeedSettings | None = Field(None, title="DeepSpeed", description="Absent: the plain trainer.")
    numerics: NumericsSettings = Field(default_factory=NumericsSettings)
    parallel: ParallelSettings = Field(default_factory=ParallelSettings)
    resources: Resources = Field(default_factory=Resources)

    @property
    def makes_adapter(self) -> bool:
        """Whether the result is a LoRA adapter; else it is a whole model."""
        return self.method in ("lora", "qlora")

    @property
    def data_parallel(self) -> int:
        """Copies of the model that train on different data."""
        return self.resources.devices * self.resources.nodes // self.parallel.split

    @model_validator(mode="after")
    def _can_be_spread(self) -> Self:
        for refusal in refusals(self):
            raise ValueError(refusal)
        return self

    @model_validator(mode="after")
    def _pairs_are_not_packed(self) -> Self:
        if self.objective == "dpo" and self.packing:
            raise ValueError(
                "packing: a pair of answers can't share a sequence with others; leave packing off for dpo."
            )
        if self.objective == "dpo" and self.parallel.split > 1:
            raise ValueError(
                "objective: dpo needs a second model beside the trained one, which parallel.tensor and "
                "parallel.pipeline don't spread; use sft."
            )
        return self

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        if self.precision == "fp8" and (self.method == "qlora" or self.deepspeed):
            other = "the 4-bit weights of qlora" if self.method == "qlora" else "DeepSpeed"
            raise ValueError(f"precision: fp8 can't be combined with {other}; use bf16 or auto.")
        if self.parallel.pipeline > 1 and (self.numerics.compile or self.numerics.liger == "on"):
            asked = "compile" if self.numerics.compile else "liger"
            raise ValueError(f"numerics.{asked}: not with the stages of parallel.pipeline; turn it off.")
        if self.parallel.pipeline > 1 and self.numerics.attention != "auto":
            raise ValueError("numerics.attention: the stages of parallel.pipeline take the model's own; use auto.")
        if self.numerics.fused_optimizer == "on" and self.deepspeed:
            raise ValueError("numerics.fused_optimizer: DeepSpeed has an optimizer of its own; use auto or off.")
        return self

    @model_validator(mode="after")
    def _checkpoints_to_judge(self) -> Self:
        judged = "keep_best" if self.checkpoints.keep_best else "evaluate"
        if (self.checkpoints.keep_best or self.checkpoints.evaluate) and not self.checkpoint_every:
            raise ValueError(
                f"checkpoint_every: 0 makes no checkpoints for checkpoints.{judged}; set it to some steps."
            )
        if self.checkpoints.evaluate and not self.evaluate:
            raise ValueError("checkpoints.evaluate: nothing is scored where evaluate is off; turn that on as well.")
        return self

    @model_validator(mode="after")
    def _method_and_its_settings(self) -> Self:
        if self.method == "partial" and not self.trained_layers.strip():
            raise ValueError(
                "trained_layers: method partial trains the layers that are named; name some, e.g. lm_head."
            )
        if self.method != "partial" and self.trained_layers.strip():
            raise ValueError(
                f"trained_layers: {self.trained_layers!r} has no meaning with method {self.method}; "
                "leave it empty, or use method partial."
            )
        if self.method == "qlora" and self.deepspeed and self.deepspeed.zero_stage == 3:
            raise ValueError("deepspeed.zero_stage: 3 can't shard the 4-bit weights of QLoRA; use stage 2 or less.")
        if self.save_merged and self.method != "lora":
            raise ValueError(f"save_merged: method {self.method} has no adapter to merge; leave it off.")
        if self.save_gguf and self.method == "qlora":
            raise ValueError("save_gguf: the 4-bit weights of qlora can't be written as GGUF; use lora.")
        asked = "save_merged" if self.save_merged else "save_gguf"
        if (self.save_merged or self.save_gguf) and self.deepspeed and self.deepspeed.zero_stage == 3:
            raise ValueError(f"{asked}: no process has the whole model under ZeRO 3; use stage 2 or less.")
        if (self.save_merged or self.save_gguf) and self.parallel.split > 1:
            raise ValueError(f"{asked}: no process has the whole model where it is split; leave it off, or parallel.")
        return self
