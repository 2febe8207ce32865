"""What a job is asked to do: `JobSpec`, the one model that serves the form, the REST schema, the CLI and the worker.

Unknown fields are ignored, an unknown `spec_version` is refused. Knows nothing of where a name leads: the portal
resolves names into an Order.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from workers.contract.base import SPEC_VERSION, Contract, Priority, Slug, Version
from workers.contract.export import ExportSpec
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec
from workers.contract.load_test import LoadTestSpec
from workers.contract.quantize import QuantizeSpec
from workers.contract.resources import Resources, RetryPolicy, on_one_node


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
        on_one_node(self.resources, "a preflight")
        if self.resources.node is None:
            raise ValueError("resources.node: a preflight checks one node; name it.")
        return self


Spec = FinetuneSpec | LaunchSpec | PreflightSpec | LoadTestSpec | ExportSpec | QuantizeSpec

SPECS: dict[str, type[Spec]] = {
    "finetune": FinetuneSpec,
    "launch": LaunchSpec,
    "export": ExportSpec,
    "quantize": QuantizeSpec,
    "preflight": PreflightSpec,
    "load_test": LoadTestSpec,
}
"""By kind, in the order in which they are offered."""

JobSpec = Annotated[Spec, Field(discriminator="kind")]


JOB_SPEC: TypeAdapter[Spec] = TypeAdapter(JobSpec)
