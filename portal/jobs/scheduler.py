"""Which waiting job starts where, and why the others wait: a pure function from queue and fleet to decisions.

First come, first served, without a later job passing an earlier one that wants the same devices. Knows nothing of
databases, clocks or how a decision is carried out.
"""

from dataclasses import dataclass, field, replace

from workers.contract.spec import Resources

GIB = 2**30


@dataclass(frozen=True)
class FreeDevice:
    """A device of the fleet. `holder` is the number of the job that has it, None when free.

    `free_in_s`: seconds until the holder is expected to end, None when unknown. `until_stopped`: the holder is a
    launch, which ends only when somebody stops it.
    """

    id: int
    kind: str
    index: int
    memory_bytes: int
    holder: int | None = None
    free_in_s: float | None = None
    until_stopped: bool = False


@dataclass(frozen=True)
class FleetNode:
    """A node as the scheduler sees it."""

    id: int
    name: str
    online: bool
    draining: bool
    labels: dict[str, str] = field(default_factory=dict)
    devices: tuple[FreeDevice, ...] = ()


@dataclass(frozen=True)
class Waiting:
    """A queued job, in queue order."""

    job: int
    resources: Resources


@dataclass(frozen=True)
class Placement:
    """Start the job on these devices of this node."""

    job: int
    node: int
    devices: tuple[int, ...]


@dataclass(frozen=True)
class Wait:
    """Leave the job in the queue; `reason` is the sentence its page shows, `position` counts from 1.

    `expected_in_s`: seconds until it is expected to start, None when nothing is known.
    """

    job: int
    position: int
    reason: str
    expected_in_s: float | None = None


def decide(queue: list[Waiting], fleet: list[FleetNode]) -> list[Placement | Wait]:
    """One decision for every waiting job, in queue order."""
    nodes = list(fleet)
    decisions: list[Placement | Wait] = []
    position = 0
    reserved: dict[int, int] = {}
    """Device id → the earlier waiting job it is kept for."""
    for waiting in queue:
        candidates = [node for node in nodes if _refusal(node, waiting.resources) is None]
        placed = _place(waiting, candidates, reserved)
        if placed is not None:
            decisions.append(placed)
            nodes = [_hold(node, placed) if node.id == placed.node else node for node in nodes]
            continue
        position += 1
        why = _why(waiting, nodes, candidates, reserved)
        decisions.append(Wait(waiting.job, position, why, _expected_in_s(waiting, candidates, reserved)))
        for node in candidates:
            for device in _matching(node, waiting.resources):
                reserved.setdefault(device.id, waiting.job)
    return decisions


def _place(waiting: Waiting, candidates: list[FleetNode], reserved: dict[int, int]) -> Placement | None:
    """The candidate with the fewest devices left over, so that large gaps stay whole."""
    fits: list[tuple[int, str, Placement]] = []
    for node in candidates:
        free = [d for d in _matching(node, waiting.resources) if d.holder is None and d.id not in reserved]
        if len(free) >= waiting.resources.devices:
            chosen = tuple(device.id for device in free[: waiting.resources.devices])
            fits.append((len(free) - len(chosen), node.name, Placement(waiting.job, node.id, chosen)))
    return min(fits, key=lambda fit: fit[:2])[2] if fits else None


def _expected_in_s(waiting: Waiting, candidates: list[FleetNode], reserved: dict[int, int]) -> float | None:
    """When the first candidate has enough devices, by what their holders expect; None behind another waiting job."""
    times: list[float] = []
    for node in candidates:
        matching = _matching(node, waiting.resources)
        free_in = [0.0 if d.holder is None else d.free_in_s for d in matching if d.id not in reserved]
        known = sorted(seconds for seconds in free_in if seconds is not None)
        if len(known) >= waiting.resources.devices:
            times.append(known[waiting.resources.devices - 1])
    return min(times) if times else None


def _matching(node: FleetNode, wanted: Resources) -> list[FreeDevice]:
    return [
        device
        for device in sorted(node.devices, key=lambda d: (d.kind, d.index))
        if wanted.device_kind in ("any", device.kind) and device.memory_bytes >= wanted.min_memory_gib * GIB
    ]


def _refusal(node: FleetNode, wanted: Resources) -> str | None:
    """Why the node can't ever take the request as things stand; None when it only has to become free."""
    if wanted.node and node.name != wanted.node:
        return f"the job asks for node {wanted.node}"
    for key, value in wanted.labels.items():
        if node.labels.get(key) != value:
            return f"it has no label {key}={value}"
    if not node.online:
        return "it is offline"
    if node.draining:
        return "it is draining"
    matching = _matching(node, wanted)
    if len(matching) < wanted.devices:
        return f"it has {len(matching)} of the {wanted.devices} {_describe(wanted)}"
    return None


def _why(waiting: Waiting, nodes: list[FleetNode], candidates: list[FleetNode], reserved: dict[int, int]) -> str:
    wanted = waiting.resources
    if not nodes:
        return "No node has reported yet; start a worker."
    if not candidates:
        reasons = "; ".join(f"{node.name}: {_refusal(node, wanted)}" for node in nodes[:3])
        more = f"; and {len(nodes) - 3} more" if len(nodes) > 3 else ""
        return f"No node can take {wanted.devices} {_describe(wanted)} ({reasons}{more})."
    held = [d for n in candidates for d in _matching(n, wanted) if d.holder is not None]
    holders = sorted({d.holder for d in held if d.holder is not None})
    stays = sorted({d.holder for d in held if d.holder is not None and d.until_stopped})
    ahead = sorted({reserved[d.id] for n in candidates for d in _matching(n, wanted) if d.id in reserved})
    if holders:
        jobs = ", ".join(f"#{job}" for job in holders[:3])
        queued = f", and {len(ahead)} earlier waiting" if ahead else ""
        endless = f" Job #{stays[0]} is a launch and stays until it is stopped." if stays else ""
        return f"Waits for {wanted.devices} {_describe(wanted)}, held by job {jobs}{queued}.{endless}"
    return f"Waits behind job #{ahead[0]}, which needs the same devices." if ahead else "Waits for free devices."


def _describe(wanted: Resources) -> str:
    noun = "device" if wanted.device_kind == "any" else f"{wanted.device_kind} device"
    size = f" with at least {wanted.min_memory_gib:g} GiB" if wanted.min_memory_gib else ""
    return f"{noun}{'s' if wanted.devices != 1 else ''}{size}"


def _hold(node: FleetNode, placed: Placement) -> FleetNode:
    held = tuple(replace(d, holder=placed.job) if d.id in placed.devices else d for d in node.devices)
    return replace(node, devices=held)
