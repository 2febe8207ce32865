"""What a job is asked to do (`JobSpec`) and what a node is ordered to run (`Order`).

The same models serve the form, the REST schema, the CLI and the worker. Unknown fields are ignored, an unknown
`spec_version` is refused. Knows nothing of where a name leads: the portal resolves names into an Order.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from workers.contract.names import SLUG

SPEC_VERSION = 1

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Quantization = Literal["none", "int8", "nf4"]
TuneMethod = Literal["lora", "qlora", "full", "partial"]


class UnknownVersion(ValueError):
    """The spec was written by a newer Liftoff."""


def _known_version(value: int) -> int:
    if value != SPEC_VERSION:
        raise UnknownVersion(f"{value} is not a version this Liftoff knows; it speaks version {SPEC_VERSION}.")
    return value


def _slug(value: str) -> str:
    if not SLUG.fullmatch(value):
        raise ValueError(f"{value!r} is not a name; use lower-case letters, digits, dots, dashes and underscores.")
    return value


Slug = Annotated[str, AfterValidator(_slug)]
Version = Annotated[int, AfterValidator(_known_version)]


class Contract(BaseModel):
    """Base of every contract model: immutable, unknown fields ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Resources(Contract):
    """What the job asks of one node."""

    device_kind: Literal["any", "cuda", "cpu"] = Field("any", title="Device kind")
    devices: int = Field(1, ge=1, le=64, title="Devices", description="Number of devices on one node.")
    min_memory_gib: float = Field(
        0, ge=0, le=2048, title="Minimum memory", description="Per device, GiB (2^30 bytes); 0 asks for none."
    )
    labels: dict[str, str] = Field(default_factory=dict, title="Node labels", description="Labels a node must carry.")
    preferred_labels: dict[str, str] = Field(
        default_factory=dict,
        title="Preferred labels",
        description="Of the nodes that are free, those that carry more of these are taken first.",
    )
    node: Slug | None = Field(None, title="Node", description="Run on this node only.")


class RetryPolicy(Contract):
    """Whether a job that ended badly through no fault of its own is tried again, from its last checkpoint."""

    max_attempts: int = Field(3, ge=1, le=20, title="Most attempts", description="Tries in all; 1 never retries.")
    backoff_s: float = Field(
        5, ge=0, le=3600, title="Back-off", description="Seconds before the second try, doubled for each one after it."
    )
    after_kill: bool = Field(
        False, title="Also when killed", description="Besides a lost node, a stopped worker and a start that failed."
    )
    after_crash: bool = Field(False, title="Also when crashed", description="The process ended with an error.")


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
    batching: Literal["shuffled", "by_length"] = Field(
        "shuffled", title="Batching", description="by_length: samples of like length together, so less is padding."
    )


class DeepSpeedSettings(Contract):
    """ZeRO (Rajbhandari et al. 2020) settings for DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = Field(2, title="ZeRO stage")
    offload_optimizer: bool = Field(False, title="Offload optimizer to CPU")


Priority = Annotated[
    int,
    Field(ge=-100, le=100, title="Priority", description="Higher goes first; waiting raises every job's with time."),
]


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
        512, ge=8, le=10_000_000, title="Context length", description="Tokens per sample; longer samples are cut."
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
    precision: Precision = Field("auto", title="Precision", description="auto: bf16 on GPUs that have it, else fp32.")
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
    lora: LoraSettings = Field(default_factory=LoraSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    deepspeed: DeepSpeedSettings | None = Field(None, title="DeepSpeed", description="Absent: the plain trainer.")
    resources: Resources = Field(default_factory=Resources)

    @property
    def makes_adapter(self) -> bool:
        """Whether the result is a LoRA adapter; else it is a whole model."""
        return self.method in ("lora", "qlora")

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
        return self


class LaunchSpec(Contract):
    """Serve a base model, or a base model with an adapter, until stopped."""

    kind: Literal["launch"] = "launch"
    spec_version: Version = SPEC_VERSION
    name: str = Field(
        "", max_length=120, title="Job name", description="Shown in lists; made from the model when empty."
    )
    model: Slug = Field(title="Model", description="Name of a model profile.")
    adapter: Slug | None = Field(None, title="Adapter", description="Name of an adapter made for this model.")
    quantization: Quantization = Field(
        "none", title="Quantization", description="int8: 8-bit, nf4: 4-bit weights (bitsandbytes)."
    )
    precision: Precision = Field("auto", title="Precision", description="auto: bf16 on GPUs that have it, else fp32.")
    context_length: int = Field(
        2048, ge=8, le=10_000_000, title="Context length", description="Prompt plus answer, tokens."
    )
    max_tokens: int = Field(256, ge=1, le=1_000_000, title="Max tokens", description="Default length of an answer.")
    temperature: float = Field(0.7, ge=0, le=2, title="Temperature", description="0 is greedy.")
    top_p: float = Field(0.9, gt=0, le=1, title="Top p", description="Nucleus sampling mass.")
    seed: int = Field(42, ge=0, le=2**32 - 1, title="Seed")
    skip_preflight: bool = Field(
        False, title="Skip preflight", description="Load the model without checking first that the node is ready."
    )
    priority: Priority = 0
    retry: RetryPolicy = Field(default_factory=RetryPolicy)
    resources: Resources = Field(default_factory=Resources)

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> Self:
        if self.max_tokens >= self.context_length:
            raise ValueError(
                f"max_tokens: {self.max_tokens} leaves no room for a prompt in a context of "
                f"{self.context_length} tokens; use at most {self.context_length - 1}."
            )
        return self


class PreflightSpec(Contract):
    """Check that one node is ready: packages, driver, memory, disk, all-reduce, clocks."""

    kind: Literal["preflight"] = "preflight"
    spec_version: Version = SPEC_VERSION
    name: str = Field(
        "", max_length=120, title="Job name", description="Shown in lists; made from the node when empty."
    )
    model: Slug | None = Field(
        None, title="Model", description="Read its files and judge memory by them; without one, the node's own folder."
    )
    sweep_processes: int = Field(
        0,
        ge=0,
        le=64,
        title="All-reduce sweep",
        description="Instead of the checks, time all-reduces between 1 to this many processes, one a GPU; 0: checks.",
    )
    priority: Priority = 0
    retry: RetryPolicy = Field(default_factory=lambda: RetryPolicy(max_attempts=1))
    resources: Resources = Field(default_factory=Resources)

    @model_validator(mode="after")
    def _of_one_node(self) -> Self:
        if self.resources.node is None:
            raise ValueError("resources.node: a preflight checks one node; name it.")
        return self


JobSpec = Annotated[FinetuneSpec | LaunchSpec | PreflightSpec, Field(discriminator="kind")]
JOB_SPEC: TypeAdapter[FinetuneSpec | LaunchSpec | PreflightSpec] = TypeAdapter(JobSpec)


class ModelInput(Contract):
    """Where a node finds a model. `uri` is a folder of safetensors, or one GGUF file."""

    name: str
    uri: str = Field(description="store://, file:// or s3:// URI; hub://org/name for a hub model.")
    revision: str | None = None
    format: Literal["safetensors", "gguf", "hub"] = "safetensors"
    sha256: str | None = None
    trust_remote_code: bool = Field(False, description="True only where an admin approved this model at this revision.")


class DatasetInput(Contract):
    """Where a node finds a validated dataset, already split; JSON lines in the dataset's own format."""

    name: str
    format: Literal["messages", "prompt_completion", "text", "text_label"]
    train_uri: str
    test_uri: str | None = None
    sha256: str
    labels: tuple[str, ...] = Field((), description="Sorted label names; text_label only.")


class AdapterInput(Contract):
    """Where a node finds a LoRA adapter (PEFT folder, safetensors)."""

    name: str
    uri: str
    sha256: str | None = None


class ResumeInput(Contract):
    """A checkpoint that an earlier attempt put in the artifact store; the run goes on after `step`."""

    uri: str
    step: int = Field(ge=1)
    sha256: str | None = None


MOST_SHARING = 8
"""Attempts on one device at a time, at most."""


class Device(Contract):
    """One device of an allocation."""

    kind: Literal["cuda", "cpu"]
    index: int = Field(ge=0, description="Index on its node.")
    name: str = ""
    reserved_bytes: int | None = Field(
        None, ge=0, description="The attempt shares the device and is planned to take so much of it; None: all of it."
    )


class Order(Contract):
    """One attempt, fully resolved: all a node needs to run it. Written to RUN_DIR/order.json."""

    spec_version: Version = SPEC_VERSION
    job: int
    attempt: int = Field(ge=1)
    token: str = Field(
        "",
        pattern=r"^[A-Za-z0-9]{0,64}$",
        description="Names this very attempt, also across databases that count jobs alike.",
    )
    node: Slug
    spec: JobSpec
    model: ModelInput | None = Field(None, description="Only a preflight may go without.")
    dataset: DatasetInput | None = None
    adapter: AdapterInput | None = None
    resume: ResumeInput | None = None
    devices: tuple[Device, ...]
    result_uri: str = Field(description="Folder in the artifact store that receives the run's output.")
    lease_s: float = Field(30, gt=0, description="Unheard of for this long, the attempt is given to another node.")
    serve_token: str | None = Field(None, description="Bearer token a served model asks of the portal; launch only.")
