"""What the REST API says of a job. Times are ISO 8601, or Unix seconds where the name is `at`."""

from datetime import datetime
from typing import Any, Literal

from ninja import Schema
from pydantic import BaseModel, ConfigDict, Field

from portal.jobs.lifecycle import FINAL, Status
from portal.jobs.models import Job
from workers.contract.reasons import Reason
from workers.contract.spec import JobSpec

StatusName = Literal["queued", "dispatched", "running", "cancelling", "succeeded", "failed", "cancelled"]


class Progress(Schema):
    """Work done of work to do, in `unit`s."""

    done: float
    total: float = Field(description="0 when unknown.")
    unit: str
    eta_s: float | None = Field(description="Seconds to go; null when unknown.")


class JobRow(Schema):
    """A job in a list."""

    id: int
    name: str
    kind: str
    status: StatusName
    final: bool = Field(description="Nothing more will happen to it.")
    phase: str
    reason: str | None
    sentence: str | None = Field(description="The reason in words.")
    owner: str
    attempt: int = Field(description="Current attempt; 0 before the first.")
    progress: Progress
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


def job_row(job: Job) -> dict[str, Any]:
    """The JobRow of a job."""
    columns = ("id", "name", "kind", "status", "phase", "created_at", "started_at", "finished_at")
    return {
        **{column: getattr(job, column) for column in columns},
        "final": Status(job.status) in FINAL,
        "reason": job.reason or None,
        "sentence": Reason(job.reason).sentence if job.reason else None,
        "owner": job.owner.get_username(),
        "attempt": job.attempt_number,
        "progress": {
            "done": job.progress_done,
            "total": job.progress_total,
            "unit": job.progress_unit,
            "eta_s": job.eta_s,
        },
    }


class Queue(Schema):
    """Why a job waits."""

    position: int | None = Field(description="1 is next.")
    waiting_for: str
    expected_start_at: datetime | None


class Change(Schema):
    """One change of status."""

    at: datetime
    old: str
    new: str
    reason: str | None
    note: str
    attempt: int


class Try(Schema):
    """One attempt at a job."""

    number: int
    node: str
    resumed_from: int | None = Field(description="The step whose checkpoint it went on from; null for the start.")
    reason: str | None
    sentence: str | None = Field(description="The reason in words.")
    detail: str
    started_at: datetime | None
    finished_at: datetime | None


class Artifact(Schema):
    """Something a run put in the artifact store."""

    name: str
    kind: str
    uri: str
    bytes: int
    sha256: str | None
    attempt: int


class ArtifactFile(Schema):
    """One file of an artifact."""

    name: str = Field(description="Below the artifact; the artifact's own name where it is one file.")
    bytes: int
    href: str = Field(description="Path of its download.")


class ArtifactFiles(Artifact):
    """An artifact and its files."""

    files: list[ArtifactFile]


class ReadyEndpoint(Schema):
    """A launched model that answers at /v1/chat/completions."""

    model: str
    ready_at: datetime


class TeamNode(Schema):
    """One node of an attempt on several."""

    node: str
    devices: list[str]
    settings: dict[str, str] = Field(description="Environment variables that NCCL and gloo are given there.")
    reason: str | None = Field(description="Why its part of the attempt ended; null while it runs.")
    detail: str
    output: list[str] = Field(description="Its last lines; those of the first node are the job's log.")


class Team(Schema):
    """The nodes of an attempt on several, the first of which leads."""

    endpoint: str = Field(description="Where they meet: the first one's address and a port.")
    nodes: list[TeamNode]


class Replica(Schema):
    """One of a launch's copies, each of which is a job."""

    job: int
    name: str
    status: StatusName
    reason: str | None


class JobOut(JobRow):
    """All there is to say of a job, except its series, logs and events."""

    detail: str
    queue: Queue | None
    node: str | None
    devices: list[str]
    team: Team | None = Field(description="Of a job on several nodes.")
    spec: JobSpec
    timeline: list[Change]
    attempts: list[Try]
    results: dict[str, dict[str, Any]]
    artifacts: list[Artifact]
    adapter: str | None = Field(description="Name of the adapter it made.")
    made_model: str | None = Field(description="Name of the model it made: methods full and partial.")
    endpoint: ReadyEndpoint | None
    replica_of: int | None = Field(description="The launch whose further copy it is.")
    replicas: list[Replica] = Field(description="A launch and its further copies; empty where there are none.")


class Event(BaseModel):
    """One event of the contract, with the fields of its type."""

    model_config = ConfigDict(extra="allow")

    attempt: int
    seq: int
    at: float = Field(description="Unix seconds.")
    type: str


class Events(Schema):
    """Events in order, and where to go on."""

    events: list[Event]
    cursor: str = Field(description="Pass it as `since` to get what is newer.")


class Point(BaseModel):
    """One value of a series. Thousands to an answer: a plain model is checked ten times faster than a Schema."""

    attempt: int
    seq: int
    step: int | None
    at: float = Field(description="Unix seconds.")
    value: float


class LogLine(BaseModel):
    """One line of output."""

    attempt: int
    seq: int
    at: float = Field(description="Unix seconds.")
    stream: str
    text: str
