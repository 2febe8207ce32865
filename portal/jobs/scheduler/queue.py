"""A waiting job as the scheduler sees it. Plain data; knows nothing of the job's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.contract.resources import Resources


@dataclass(frozen=True)
class Waiting:
    """A queued job that may start now.

    `resources`: what it asks of one node. `nodes`: how many such nodes it asks for; it starts on all of them or none.
    `kind`: the job's kind (finetune, launch, preflight), by which the policy allows sharing a device.
    `team`: whose share it counts against.
    `priority`: points, higher goes first (the contract has -100 to 100).
    `queued_at`: when it entered the queue, in seconds of the clock that `now` reads; None: just now. For a job that has
    run before, move it forward by the time it didn't wait: now − queued_at is all the time it has waited.
    `duration_s`: seconds it is expected to run, None when unknown. Without it the job never goes before another one.
    `until_stopped`: it is a launch, which ends only when somebody stops it; `duration_s` is not read then.
    `planned_bytes`: bytes it is planned to use on each device at most, None when unknown: then it gets devices alone.
    `preferred`: labels a node should rather carry; the more of them, the better.
    """

    job: int
    resources: Resources
    nodes: int = 1
    kind: str = ""
    team: str = ""
    priority: int = 0
    queued_at: float | None = None
    duration_s: float | None = None
    until_stopped: bool = False
    planned_bytes: int | None = None
    preferred: Mapping[str, str] = field(default_factory=dict)

    @property
    def known_s(self) -> float | None:
        """Seconds it is expected to run, None when nobody knows."""
        return None if self.until_stopped or self.duration_s is None else max(self.duration_s, 0.0)
