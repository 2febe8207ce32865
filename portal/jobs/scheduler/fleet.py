"""The fleet as the scheduler sees it: nodes, their devices, and who holds those. Plain data.

Knows nothing of where it was read.
"""

from dataclasses import dataclass, field

from portal.jobs.scheduler.queue import Waiting

GIB = 2**30


@dataclass(frozen=True)
class Held:
    """A running job's hold on a device.

    `free_in_s`: seconds until the job is expected to end, None when unknown; zero or less: overdue.
    `until_stopped`: it is a launch, which ends only when somebody stops it.
    `kind` and `planned_bytes`: the job's kind and the bytes it is planned to use on this device at most; without
    planned bytes the device is its own.
    `stopping`: it was told to stop (cancelled or preempted) and hasn't ended yet.
    `if_stopped`: how the job would stand in the queue if it were stopped now, its `queued_at` moved so that
    now − queued_at is all the time it has waited. None: it may not be preempted.
    """

    job: int
    free_in_s: float | None = None
    until_stopped: bool = False
    kind: str = ""
    planned_bytes: int | None = None
    stopping: bool = False
    if_stopped: Waiting | None = None


@dataclass(frozen=True)
class FreeDevice:
    """A device of the fleet. `holder` is the number of the job that has it, None when free.

    `free_in_s`: seconds until the holder is expected to end, None when unknown. `until_stopped`: the holder is a
    launch, which ends only when somebody stops it. `memory_bytes` is the device's whole capacity.
    `holds` says more of the holder, or names several; where it is given, the three before it are not read.
    """

    id: int
    kind: str
    index: int
    memory_bytes: int
    holder: int | None = None
    free_in_s: float | None = None
    until_stopped: bool = False
    holds: tuple[Held, ...] = ()

    @property
    def held(self) -> tuple[Held, ...]:
        """Everyone on the device."""
        if self.holds or self.holder is None:
            return self.holds
        return (Held(self.holder, self.free_in_s, self.until_stopped),)

    @property
    def held_bytes(self) -> int:
        """Bytes that are spoken for: all of them when somebody has the device alone."""
        planned = [hold.planned_bytes for hold in self.held]
        return self.memory_bytes if None in planned else sum(bytes_ or 0 for bytes_ in planned)


@dataclass(frozen=True)
class FleetNode:
    """A node as the scheduler sees it. One that is offline or draining takes nothing new.

    `closed`: why it doesn't for another reason, in words that go on after its name; '' where there is none.
    """

    id: int
    name: str
    online: bool
    draining: bool
    labels: dict[str, str] = field(default_factory=dict)
    devices: tuple[FreeDevice, ...] = ()
    closed: str = ""

    @property
    def takes_jobs(self) -> bool:
        """Whether anything new may start on it."""
        return self.online and not self.draining and not self.closed
