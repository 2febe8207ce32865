"""Devices and nodes while a decision is made: what is taken, shared and kept so far.

Knows nothing of who comes next.
"""

import math

from portal.jobs.scheduler.fleet import FleetNode, FreeDevice, Held
from portal.jobs.scheduler.policy import Policy
from portal.jobs.scheduler.queue import Waiting

UNKNOWN = 1e15
"""Seconds until something that will happen, nobody knows when."""
NEVER = math.inf


class DeviceState:
    """A device. Times are seconds from now.

    `until`: when everybody on it has ended (0 when free). `room`: bytes a sharing job may still plan for, -1 when
    nobody may join. `kept_for`: the first waiting job it is kept for; then another job may have it only if it is over
    by `kept_until`, and `kept_then` is when all it is kept for will have ended. `booked`: the same with all who are
    expected there; the timetable's own. `cls`: its kind, and how many of the memory floors that the queue asks for it
    is above.
    """

    __slots__ = (
        "booked", "cls", "free", "holds", "id", "index", "kept_for", "kept_then", "kept_until", "kind", "memory_bytes",
        "room", "until",
    )  # fmt: skip

    def __init__(self, device: FreeDevice, policy: Policy) -> None:
        self.id = device.id
        self.kind = device.kind
        self.index = device.index
        self.memory_bytes = device.memory_bytes
        self.kept_for: int | None = None
        self.kept_until = NEVER
        self.kept_then = 0.0
        self.holds: tuple[Held, ...] = ()
        self.free = True
        self.until = 0.0
        self.booked = 0.0
        self.cls = (device.kind, 0)
        self.room = -1
        if device.holds or device.holder is not None:
            self.hold(device.held, policy)

    def hold(self, more: tuple[Held, ...], policy: Policy) -> None:
        """Somebody is on it."""
        self.holds = self.holds + more
        self.free = False
        self.until = max(ends_in_s(held, policy) for held in self.holds)
        shared = len(self.holds) < policy.pack_jobs and all(
            shares(held.kind, held.planned_bytes, policy) for held in self.holds
        )
        self.room = self.limit(policy) - sum(held.planned_bytes or 0 for held in self.holds) if shared else -1

    def limit(self, policy: Policy) -> int:
        """Bytes that jobs on it may plan for together."""
        return int(self.memory_bytes * policy.pack_share)

    def usable_s(self) -> float:
        """Seconds for which a job may have it that nothing is kept for."""
        return self.kept_until if self.kept_for is not None else NEVER


class NodeState:
    """A node that is online and takes new work. `order`: its place by name; `group`: the number of those like it."""

    __slots__ = ("devices", "group", "node", "order")

    def __init__(self, node: FleetNode, order: int, policy: Policy) -> None:
        self.node = node
        self.order = order
        self.group = 0
        self.devices = [DeviceState(d, policy) for d in sorted(node.devices, key=lambda d: (d.kind, d.index))]


def shares(kind: str, planned_bytes: int | None, policy: Policy) -> bool:
    """Whether a job of this kind and size may be on a device with others."""
    return planned_bytes is not None and kind in policy.packs


def packable(job: Waiting, policy: Policy) -> bool:
    """Whether the job may share: a small one, on one device of one node."""
    return shares(job.kind, job.planned_bytes, policy) and job.nodes == 1 and job.resources.devices == 1


def ends_in_s(held: Held, policy: Policy) -> float:
    """Seconds until the job on a device has ended."""
    if held.stopping:
        return min(policy.stop_s, NEVER if held.free_in_s is None else max(held.free_in_s, 0.0))
    if held.until_stopped:
        return NEVER
    return UNKNOWN if held.free_in_s is None else max(held.free_in_s, 0.0)


def hold_of(job: Waiting, reserved_bytes: int | None) -> Held:
    """The hold that the job has on each of its devices once it starts."""
    return Held(job.job, job.known_s, job.until_stopped, job.kind, reserved_bytes)
