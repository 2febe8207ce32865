"""What a node is ordered to run: one attempt with every name resolved. Knows nothing of how that was decided."""

from typing import Literal

from pydantic import Field

from workers.contract.base import SPEC_VERSION, Contract, Slug, Version
from workers.contract.objectives import RowFormat
from workers.contract.resources import MOST_NODES
from workers.contract.spec import JobSpec


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
    format: RowFormat
    train_uri: str
    test_uri: str | None = None
    sha256: str
    labels: tuple[str, ...] = Field((), description="Sorted label names; text_label only.")


class AdapterInput(Contract):
    """Where a node finds a LoRA adapter (PEFT folder, safetensors)."""

    name: str
    uri: str
    sha256: str | None = None


class CheckpointPart(Contract):
    """What one of an attempt's nodes wrote of a checkpoint."""

    uri: str
    sha256: str | None = None


class ResumeInput(Contract):
    """A checkpoint that an earlier attempt put in the artifact store; the run goes on after `step`."""

    uri: str
    step: int = Field(ge=1)
    sha256: str | None = None
    parts: tuple[CheckpointPart, ...] = Field((), description="Those of the further nodes of an attempt on several.")


class LaunchTarget(Contract):
    """The attempt of a launch that a load test asks, straight at its engine. Its token is the order's `serve_token`."""

    job: int
    attempt: int = Field(ge=1)
    url: str = Field(description="http://host:port of the engine on its node.")
    model: str = Field(description="The name that it answers to.")


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


class Team(Contract):
    """The place of one node among those of its attempt, which meet at the first one's address."""

    rank: int = Field(ge=0, description="This node's place; the first, 0, leads: it alone tells how the run goes.")
    nodes: int = Field(ge=2, le=MOST_NODES, description="How many they are.")
    host: str = Field(min_length=1, description="Address of the first node.")
    port: int = Field(ge=1, le=65535)
    settings: dict[str, str] = Field(
        default_factory=dict,
        description="Environment variables of NCCL and gloo; those that the node's worker was started with go first.",
    )

    @property
    def endpoint(self) -> str:
        """Where the nodes meet."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Order(Contract):
    """One attempt, fully resolved: all a node needs to run it. Written to RUN_DIR/order.json."""

    spec_version: Version = SPEC_VERSION
    job: int
    attempt: int = Field(ge=1)
    token: str = Field(
        "",
        pattern=r"^[A-Za-z0-9]{0,64}$",
        description="Names this very attempt, also across databases that count jobs alike. That of a further node of "
        "several is the attempt's own with the node's place (names.token_of).",
    )
    node: Slug
    spec: JobSpec
    model: ModelInput | None = Field(None, description="Only a preflight or a load test may go without.")
    dataset: DatasetInput | None = None
    adapter: AdapterInput | None = None
    resume: ResumeInput | None = None
    earlier: tuple[str, ...] = Field(
        (), description="Tokens of this job's attempts before; the node may hold later checkpoints of theirs."
    )
    devices: tuple[Device, ...]
    team: Team | None = Field(None, description="Of an attempt on several nodes; each has an order of its own.")
    result_uri: str = Field(description="Folder in the artifact store that receives the run's output.")
    lease_s: float = Field(30, gt=0, description="Unheard of for this long, the attempt is given to another node.")
    target: LaunchTarget | None = Field(None, description="Whom a load test asks.")
    serve_token: str | None = Field(
        None, description="Bearer token that a served model asks for: of the launch itself, or of a load test's target."
    )

    @property
    def resume_step(self) -> int:
        """The step that the run goes on after; 0: it begins at the beginning."""
        return self.resume.step if self.resume else 0
