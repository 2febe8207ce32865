"""What a job asks of the fleet, and what becomes of it when it ends badly. Knows no job kind."""

from typing import Literal, Self

from pydantic import Field, model_validator

from workers.contract.base import Contract, Slug

MOST_NODES = 64
"""Of one job."""


class Resources(Contract):
    """What the job asks of a node, and of how many such nodes."""

    device_kind: Literal["any", "cuda", "cpu"] = Field("any", title="Device kind")
    nodes: int = Field(
        1, ge=1, le=MOST_NODES, title="Nodes", description="Start on so many nodes at once; fine-tunes only."
    )
    devices: int = Field(1, ge=1, le=64, title="Devices", description="Number of devices on each node.")
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

    @model_validator(mode="after")
    def _of_nodes_that_can_be_had(self) -> Self:
        if self.nodes > 1 and self.node is not None:
            raise ValueError(f"node: {self.node!r} is one node and the job asks for {self.nodes}; leave it empty.")
        return self


def on_one_node(resources: Resources, what: str) -> None:
    """Raises ValueError where a kind of job that runs on one node asks for more."""
    if resources.nodes > 1:
        raise ValueError(f"resources.nodes: {resources.nodes} are too many; {what} runs on one node.")


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
