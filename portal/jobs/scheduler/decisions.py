"""What the scheduler decides: a job starts, waits, or is asked to make room. Plain data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Start the job on these devices of this node; on none where it needs none.

    A job of several nodes has a (node, devices) pair for each in `parts`, the first of them repeated in `node` and
    `devices`; allocate all of them or none. `reserved_bytes`: of its one device, which it shares with others; None: its
    devices are its own.
    """

    job: int
    node: int
    devices: tuple[int, ...]
    parts: tuple[tuple[int, tuple[int, ...]], ...] = ()
    reserved_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            object.__setattr__(self, "parts", ((self.node, self.devices),))

    @property
    def all_devices(self) -> tuple[int, ...]:
        """Those of all its nodes."""
        return tuple(device for _, devices in self.parts for device in devices)


@dataclass(frozen=True)
class Wait:
    """Leave the job in the queue; `reason` is the sentence its page shows, `position` counts from 1.

    `expected_in_s`: seconds until it is expected to start, None when nothing is known.
    """

    job: int
    position: int
    reason: str
    expected_in_s: float | None = None


@dataclass(frozen=True)
class Preempt:
    """Stop the running `job` at a checkpoint and put it back in the queue, so that `for_job` can start."""

    job: int
    for_job: int
    reason: str


Decision = Placement | Wait | Preempt
