"""What a job asks of the fleet, and what becomes of it when it ends badly. Knows no job kind."""

from typing import Literal

from pydantic import Field

from workers.contract.base import Contract, Slug


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
