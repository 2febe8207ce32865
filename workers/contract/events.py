"""What a run says: one event a line, as JSON.

A child writes events without job, attempt and seq; the supervisor numbers them (`Envelope`). Times are Unix
seconds (float). An unknown type is kept as it is. Knows nothing of how events travel.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter
from pydantic_core import PydanticUndefined

from workers.contract.base import Contract
from workers.contract.reasons import Reason


class _Event(Contract):
    model_config = ConfigDict(extra="allow", frozen=True)


class Started(_Event):
    """The supervisor has taken the attempt and started the child."""

    type: Literal["started"] = "started"
    pid: int
    run_dir: str = ""
    resumed_from: int | None = Field(
        None, description="The step whose checkpoint it was given; 0: it begins at the beginning; None: not told."
    )


class Phase(_Event):
    """What the run is doing now, in words: 'loading model', 'training'."""

    type: Literal["phase"] = "phase"
    name: str


class Progress(_Event):
    """Work done of work to do, in `unit`s; `eta_s` seconds to go, None when unknown."""

    type: Literal["progress"] = "progress"
    done: float
    total: float
    unit: str = "steps"
    eta_s: float | None = None


class Metric(_Event):
    """Values at one step. Names used: loss, grad_norm, learning_rate, tokens_per_s, epoch, eval_*;
    sampled by the supervisor (step None): cpu_percent, rss_bytes, device<i>_util_percent,
    device<i>_memory_bytes, device<i>_power_w."""

    type: Literal["metric"] = "metric"
    step: int | None = None
    values: dict[str, float]


class Log(_Event):
    """One line of the child's output."""

    type: Literal["log"] = "log"
    stream: Literal["out", "supervisor"] = "out"
    text: str


class Result(_Event):
    """Figures of the run, shown on its page: e.g. name='test_before', values={'accuracy':…, 'macro_f1':…}."""

    type: Literal["result"] = "result"
    name: str
    values: dict[str, Any]


class Ready(_Event):
    """A served model answers at `url` (http://host:port, OpenAI-style below /v1)."""

    type: Literal["ready"] = "ready"
    url: str
    model: str


class Artifact(_Event):
    """A file or folder of the run was put in the artifact store."""

    type: Literal["artifact"] = "artifact"
    name: str
    kind: Literal["adapter", "model", "manifest", "file"]
    uri: str
    bytes: int
    sha256: str | None = None


class Checkpoint(_Event):
    """The state after `step` is whole and in the artifact store; a later attempt can go on from it."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int = Field(ge=1)
    uri: str
    bytes: int
    sha256: str | None = None
    loss: float | None = Field(None, description="What it is judged by, where the run judges its checkpoints.")
    best: bool = Field(False, description="The best so far, which is kept beside the newest ones.")


class Failed(_Event):
    """The child's own word on why it ends; the supervisor turns it into Finished."""

    type: Literal["failed"] = "failed"
    reason: Reason
    detail: str


class Finished(_Event):
    """The last event of every attempt, written by the supervisor, exactly once."""

    type: Literal["finished"] = "finished"
    reason: Reason
    detail: str = ""


class Unknown(_Event):
    """An event of a newer Liftoff: kept and passed on as it is."""

    type: str


def _tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) and kind in _KNOWN else "unknown"


Event = Annotated[
    Annotated[Started, Tag("started")]
    | Annotated[Phase, Tag("phase")]
    | Annotated[Progress, Tag("progress")]
    | Annotated[Metric, Tag("metric")]
    | Annotated[Log, Tag("log")]
    | Annotated[Result, Tag("result")]
    | Annotated[Ready, Tag("ready")]
    | Annotated[Artifact, Tag("artifact")]
    | Annotated[Checkpoint, Tag("checkpoint")]
    | Annotated[Failed, Tag("failed")]
    | Annotated[Finished, Tag("finished")]
    | Annotated[Unknown, Tag("unknown")],
    Discriminator(_tag),
]
AnyEvent = (
    Started | Phase | Progress | Metric | Log | Result | Ready | Artifact | Checkpoint | Failed | Finished | Unknown
)
_KNOWN = frozenset(model.model_fields["type"].default for model in AnyEvent.__args__) - {PydanticUndefined}
EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Event)


class Envelope(Contract):
    """A numbered event. (job, attempt, seq) is unique; seq starts at 1 and has no gaps."""

    job: int
    attempt: int
    token: str = Field("", description="The order's token; events with another attempt's are dropped.")
    seq: int = Field(ge=1)
    at: float = Field(description="Unix seconds when the supervisor read it.")
    event: Event


class DeviceProfile(Contract):
    """One accelerator, or the CPU as one device."""

    kind: Literal["cuda", "cpu"]
    index: int
    name: str
    memory_bytes: int
    uuid: str = ""
    power_limit_w: float | None = None
    compute_capability: str | None = None
    """CUDA's, such as '9.0'; 'avx512_bf16' of a CPU that has it."""


class LinkProfile(Contract):
    """How two devices of a node reach each other."""

    a: int
    b: int
    kind: Literal["nvlink", "pcie", "host"]
    detail: str = ""


class InterfaceProfile(Contract):
    """A network interface that is up and has an IPv4 address."""

    name: str = Field(max_length=60)
    address: str
    bits_per_s: int | None = Field(None, ge=0, description="None where the driver doesn't tell.")


class NodeProfile(Contract):
    """What a worker found on its node."""

    name: str
    address: str = "127.0.0.1"
    cores: int
    ram_bytes: int
    disk_free_bytes: int
    disk_read_bytes_per_s: float | None = None
    driver: str | None = None
    cuda: str | None = None
    versions: dict[str, str] = Field(
        default_factory=dict, description="Package name to version; only what is installed."
    )
    labels: dict[str, str] = Field(default_factory=dict)
    devices: tuple[DeviceProfile, ...]
    links: tuple[LinkProfile, ...] = ()
    interfaces: tuple[InterfaceProfile, ...] = ()


class RunningAttempt(Contract):
    """An attempt a worker holds; naming it in a heartbeat renews its lease."""

    job: int
    attempt: int
    token: str = Field("", description="The order's token: the fencing token of its lease.")
    last_seq: int = Field(0, ge=0, description="Events spooled so far.")


class DeviceProcess(Contract):
    """A process that holds memory of a device."""

    pid: int
    name: str = Field("", description="Program and script without arguments; empty where the node can't see it.")
    bytes: int | None = Field(None, ge=0, description="None where the driver doesn't tell.")
    run: RunningAttempt | None = Field(None, description="The run of this node that it was started for.")


class DeviceUse(Contract):
    """What is held of a device now."""

    kind: Literal["cuda", "cpu"]
    index: int
    memory_bytes: int | None = Field(None, description="Held in all; None where it doesn't say, and of a CPU.")
    processes: tuple[DeviceProcess, ...] = Field((), description="The largest; of a CPU those of runs alone.")


class Heartbeat(Contract):
    """A node's periodic word on stream liftoff:nodes. `profile` comes at start and every minute, `devices` every ten
    seconds; None says that nobody looked."""

    node: str
    at: float
    running: tuple[RunningAttempt, ...] = ()
    devices: tuple[DeviceUse, ...] | None = None
    profile: NodeProfile | None = None


class StreamBatch(BaseModel):
    """What one stream entry carries under the key `batch`: envelopes of one attempt in order of seq."""

    envelopes: list[Envelope]
