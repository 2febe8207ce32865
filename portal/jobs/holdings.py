"""The fleet as the scheduler wants it: nodes, their devices, and who holds those for how long.

Writes nothing; decides nothing.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from portal.accounts.selectors import teams
from portal.fleet.models import Accelerator, Node
from portal.fleet.selectors import disk_is_nearly_full, is_online
from portal.jobs.lifecycle import Status
from portal.jobs.models import Allocation
from portal.jobs.queue import waiting_of
from portal.jobs.scheduler import GIB, FleetNode, FreeDevice, Held
from workers.contract.finetune import FinetuneSpec
from workers.contract.spec import JOB_SPEC

NODE_COLUMNS = ("name", "state", "labels", "last_seen_at", "ram_bytes", "disk_free_bytes")


@dataclass(frozen=True)
class Holding:
    """One device that an attempt holds, and whose job it is. `part`: how much of it, 1 for all."""

    device: int
    owner: int
    held: Held
    part: float = 1.0


def holdings(now: datetime, *, preempts: bool = False) -> list[Holding]:
    """Every device that is held. `preempts`: say also how jobs that may be preempted would stand in the queue."""
    live = Allocation.objects.filter(released_at=None).order_by("pk")
    job = "attempt__job__"
    columns = [
        "accelerator_id", f"{job}id", f"{job}owner_id", f"{job}kind", f"{job}eta_s", f"{job}status",
        "attempt__preempt_asked_at", "attempt__dispatched_at", f"{job}queued_at", f"{job}created_at",
        "reserved_bytes", "accelerator__memory_bytes",
    ]  # fmt: skip
    rows = list(live.values_list(*columns))
    specs = dict(live.values_list(f"{job}id", f"{job}spec")) if preempts else {}
    team = teams(row[2] for row in rows) if preempts else {}
    found = []
    for device, pk, owner, kind, eta_s, status, asked_at, dispatched_at, queued_at, created_at, reserved, size in rows:
        if_stopped = None
        spec = JOB_SPEC.validate_python(specs[pk]) if pk in specs else None
        if isinstance(spec, FinetuneSpec) and spec.preemptible and status == Status.RUNNING:
            waited_from = (queued_at or created_at) + (now - dispatched_at)
            if_stopped = waiting_of(pk, spec, team[owner], waited_from)
        held = Held(
            job=pk,
            free_in_s=None if kind == "launch" else eta_s,
            until_stopped=kind == "launch",
            kind=kind,
            planned_bytes=reserved,
            stopping=status == Status.CANCELLING or asked_at is not None,
            if_stopped=if_stopped,
        )
        found.append(Holding(device, owner, held, part_of(reserved, size)))
    return found


def part_of(reserved_bytes: int | None, memory_bytes: int) -> float:
    """How much of a device an allocation takes, 1 for all."""
    return 1.0 if reserved_bytes is None else min(reserved_bytes / max(memory_bytes, 1), 1.0)


def fleet(held: Iterable[Holding], now: datetime) -> list[FleetNode]:
    """Every node with its present devices and who holds them."""
    holds: dict[int, tuple[Held, ...]] = defaultdict(tuple)
    for holding in held:
        holds[holding.device] += (holding.held,)
    devices: dict[int, list[FreeDevice]] = defaultdict(list)
    present = Accelerator.objects.filter(present=True).order_by("kind", "index")
    for node, pk, kind, index, size in present.values_list("node_id", "pk", "kind", "index", "memory_bytes"):
        devices[node].append(FreeDevice(pk, kind, index, size, holds=holds[pk]))
    return [
        FleetNode(
            node.pk,
            node.name,
            is_online(node, now),
            node.state == Node.State.DRAINING,
            node.labels,
            tuple(devices[node.pk]),
            _closed(node),
        )
        for node in Node.objects.only(*NODE_COLUMNS).order_by("name")
    ]


def _closed(node: Node) -> str:
    if not disk_is_nearly_full(node):
        return ""
    return f"its disk is nearly full, {node.disk_free_bytes / GIB:.1f} GiB free"
