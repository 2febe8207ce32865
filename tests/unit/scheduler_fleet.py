"""Small fleets and queues for the scheduler's tests."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from portal.jobs.scheduler import GIB, Decision, FleetNode, FreeDevice, Held, Placement, Preempt, Wait, Waiting
from workers.contract.resources import Resources

HOUR = 3600.0


def node(number: int, devices: int = 1, **changes: Any) -> FleetNode:
    """A node of free devices with 40 GiB each."""
    made = tuple(FreeDevice(number * 100 + i, "cuda", i, 40 * GIB) for i in range(devices))
    return replace(FleetNode(number, f"n{number}", True, False, {}, made), **changes)


def held(free: FleetNode, *holds: Held | int | None) -> FleetNode:
    """The node with a holder on each device: a number (its end unknown), all that is known of it, or None for free."""
    shown = []
    for device, hold in zip(free.devices, holds, strict=True):
        if isinstance(hold, int):
            hold = Held(hold)
        shown.append(replace(device, holds=() if hold is None else (hold,)))
    return replace(free, devices=tuple(shown))


def wants(job: int, devices: int = 1, **more: Any) -> Waiting:
    """A waiting job; what isn't a field of Waiting is one of Resources."""
    fields = {name: more.pop(name) for name in list(more) if name in Waiting.__dataclass_fields__}
    return Waiting(job, Resources.model_validate({"devices": devices, **more}), **fields)


def placed(decisions: Sequence[Decision]) -> dict[int, Placement]:
    return {decision.job: decision for decision in decisions if isinstance(decision, Placement)}


def waits(decisions: Sequence[Decision]) -> dict[int, Wait]:
    return {decision.job: decision for decision in decisions if isinstance(decision, Wait)}


def preempted(decisions: Sequence[Decision]) -> dict[int, int]:
    """Job that is stopped → job it makes room for."""
    return {decision.job: decision.for_job for decision in decisions if isinstance(decision, Preempt)}
