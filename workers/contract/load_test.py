"""What a load test is asked to do: which launch, how many requests at a time, until which bound.

Knows nothing of where the launch answers, nor of what was measured (load_report).
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from workers.contract.base import SPEC_VERSION, Contract, Priority, Slug, Version
from workers.contract.resources import Resources, RetryPolicy, on_one_node

Figure = Literal["e2e", "ttft", "tpot"]
FIGURES: dict[Figure, str] = {
    "e2e": "end-to-end latency",
    "ttft": "time to first token",
    "tpot": "time per output token",
}
"""In words."""


class LoadTarget(Contract):
    """What the answers of a step must keep to."""

    figure: Figure = Field(
        "e2e",
        title="Target figure",
        description="Whose P99 is bounded. e2e: a whole answer; ttft: to its first token; tpot: each token after it.",
    )
    bound_ms: float = Field(
        500, gt=0, le=3_600_000, title="Target bound", description="Milliseconds; the P99 must stay below it."
    )
    most_errors_percent: float = Field(
        1, ge=0, le=100, title="Most errors", description="Percent of a step's requests; with more the ramp stops."
    )


class NoDevices(Resources):
    """Of a job that computes nothing itself: only where it runs."""

    devices: int = Field(0, ge=0, le=0, title="Devices", description="None: it only sends requests.")


class LoadTestSpec(Contract):
    """Send a running launch more and more requests at a time, and find the highest rate that meets a target."""

    kind: Literal["load_test"] = "load_test"
    spec_version: Version = SPEC_VERSION
    name: str = Field(
        "", max_length=120, title="Job name", description="Shown in lists; made from the launch when empty."
    )
    launch: int = Field(ge=1, le=2**63 - 1, title="Launch", description="Number of a running launch.")
    concurrency: int = Field(
        8,
        ge=1,
        le=4096,
        title="Most at a time",
        description="Requests at a time of the last step; the ramp doubles up to it: 1, 2, 4 …",
    )
    step_s: float = Field(
        10, ge=1, le=3600, title="Seconds a step", description="How long each step sends; it ends with its last answer."
    )
    step_requests: int = Field(
        0,
        ge=0,
        le=1_000_000,
        title="Requests a step",
        description="Instead of seconds; at least one for each at a time. 0: by seconds.",
    )
    max_tokens: int = Field(
        64, ge=1, le=1_000_000, title="Max tokens", description="Of each answer; one may end before."
    )
    target: LoadTarget = Field(default_factory=LoadTarget)
    dataset: Slug | None = Field(None, title="Dataset", description="Ask what its rows ask, instead of prompts.")
    prompts: str = Field(
        "",
        max_length=200_000,
        title="Prompts",
        description="One a line, asked in turn; empty: a built-in set of mixed lengths.",
    )
    timeout_s: float = Field(
        120, gt=0, le=3600, title="Timeout", description="Seconds after which a request counts as an error."
    )
    priority: Priority = 0
    retry: RetryPolicy = Field(default_factory=lambda: RetryPolicy(max_attempts=1))
    resources: NoDevices = Field(
        default_factory=NoDevices, description="Without a node it runs on the launch's, which reaches it in any case."
    )

    @property
    def ramp(self) -> tuple[int, ...]:
        """Requests at a time of each step: 1, 2, 4 … and `concurrency` itself."""
        doublings = [2**power for power in range(self.concurrency.bit_length()) if 2**power < self.concurrency]
        return (*doublings, self.concurrency)

    @property
    def lines(self) -> tuple[str, ...]:
        """The prompts that were given, without empty lines."""
        return tuple(line.strip() for line in self.prompts.splitlines() if line.strip())

    @model_validator(mode="after")
    def _of_one_node(self) -> Self:
        on_one_node(self.resources, "a load test")
        return self

    @model_validator(mode="after")
    def _one_source_of_prompts(self) -> Self:
        if self.dataset and self.lines:
            raise ValueError(f"prompts: dataset {self.dataset!r} is named as well; give one of the two.")
        if self.target.figure == "tpot" and self.max_tokens < 2:
            raise ValueError("max_tokens: 1 has no time between tokens for target.figure tpot; use at least 2.")
        return self
