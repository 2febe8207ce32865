"""/nodes: the cluster's machines, their devices and who holds those. Drain and resume are for staff."""

from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import HttpRequest
from ninja import Path, Router, Schema
from pydantic import Field

from portal.api.authentication import staff_of
from portal.api.paging import Limit, Offset, Page, page
from portal.api.problems import CODES, FIND_CODES, NotFound
from portal.fleet import selectors, services
from portal.fleet.models import Node, PreflightReport
from portal.jobs.selectors import Holder, holders
from workers.contract.base import Slug
from workers.contract.preflight import Line, State
from workers.contract.sweep import Sweep

router = Router(tags=["nodes"])

Name = Annotated[Slug, Path()]


class Stranger(Schema):
    """Who holds memory of a device that no live attempt explains."""

    pid: int = Field(description="0: memory of no process that the driver names.")
    name: str = Field(description="Program and script; empty where the node can't see it.")
    bytes: int | None = Field(description="Null where the driver doesn't tell.")
    left_by: str = Field(description="The run that left it, in words; empty for somebody else's process.")


class HeldBy(Schema):
    """A job on a device."""

    job: int
    reserved_bytes: int | None = Field(description="It shares the device and is planned to take so much; null: all.")


class Device(Schema):
    """One accelerator; the CPU counts as one where there is no GPU."""

    kind: Literal["cuda", "cpu"]
    index: int
    name: str
    memory_bytes: int
    power_limit_w: float | None
    compute_capability: str
    present: bool = Field(description="Seen at the last probe.")
    held_by: int | None = Field(description="The job that holds it; of those that share it, the first.")
    holders: list[HeldBy] = Field(description="Every job on it.")
    strangers: list[Stranger] = Field(description="Who else holds memory of it.")


class Link(Schema):
    """How two devices reach each other."""

    a: int
    b: int
    kind: str
    detail: str


class Preflight(Schema):
    """What the newest preflight found on a node."""

    job: int = Field(description="The preflight job, or the launch it came before.")
    attempt: int
    state: State = Field(description="The worst of its lines.")
    at: datetime
    took_s: float
    lines: list[Line]


class Scaling(Schema):
    """From one count of processes to the next."""

    before: int = Field(description="Processes.")
    after: int
    overhead: float = Field(description="Share by which each doubling made the training step longer.")


class SweepOut(Schema):
    """What the newest all-reduce sweep measured on a node."""

    job: int
    attempt: int
    at: datetime
    sweep: Sweep
    bus_bytes_per_s: list[float] = Field(description="Of each of its sums.")
    scaling: list[Scaling]


class NodeOut(Schema):
    """One machine with a worker."""

    name: str
    address: str
    state: Literal["active", "draining"]
    online: bool
    cores: int
    ram_bytes: int
    disk_free_bytes: int
    disk_read_bytes_per_s: float | None
    driver: str
    cuda: str
    versions: dict[str, str]
    labels: dict[str, str]
    last_seen_at: datetime | None
    devices: list[Device]
    links: list[Link]
    preflight: Preflight | None = Field(description="Null before the first.")


def shape(node: Node, held: dict[int, list[Holder]], preflight: PreflightReport | None) -> dict[str, Any]:
    """The NodeOut of a node; `held` says who holds which device."""
    columns = (
        "name", "address", "state", "cores", "ram_bytes", "disk_free_bytes", "disk_read_bytes_per_s",
        "driver", "cuda", "versions", "labels", "last_seen_at",
    )  # fmt: skip
    device_columns = (
        "kind",
        "index",
        "name",
        "memory_bytes",
        "power_limit_w",
        "compute_capability",
        "present",
        "strangers",
    )
    return {
        **{column: getattr(node, column) for column in columns},
        "online": selectors.is_online(node),
        "devices": [
            {
                **{column: getattr(device, column) for column in device_columns},
                "held_by": held[device.pk][0].job.pk if device.pk in held else None,
                "holders": [
                    {"job": holder.job.pk, "reserved_bytes": holder.reserved_bytes}
                    for holder in held.get(device.pk, ())
                ],
            }
            for device in node.accelerators.all()
        ],
        "links": list(node.links.all()),
        "preflight": {
            "job": preflight.job_number,
            "attempt": preflight.attempt_number,
            **{column: getattr(preflight, column) for column in ("state", "at", "took_s", "lines")},
        }
        if preflight
        else None,
    }


def find(name: str) -> Node:
    """The node. Raises NotFound."""
    try:
        return selectors.nodes().get(name=name)
    except Node.DoesNotExist:
        raise NotFound("name", "node", name) from None


@router.get("", response={200: Page[NodeOut], **CODES}, summary="List nodes")
def list_nodes(request: HttpRequest, limit: Limit, offset: Offset) -> dict[str, Any]:
    held, preflights = holders(), selectors.latest_preflights()
    return page(selectors.nodes(), limit, offset, lambda node: shape(node, held, preflights.get(node.pk)))


@router.get("/{name}/sweep", response={200: SweepOut, **FIND_CODES}, summary="Its newest all-reduce sweep")
def get_sweep(request: HttpRequest, name: Name) -> dict[str, Any]:
    report = selectors.latest_sweep(find(name))
    if report is None:
        raise NotFound("name", "all-reduce sweep of node", name)
    sweep = Sweep.model_validate(report.sweep)
    return {
        "job": report.job_number,
        "attempt": report.attempt_number,
        "at": report.at,
        "sweep": sweep,
        "bus_bytes_per_s": [one.bus_bytes_per_s for one in sweep.sums],
        "scaling": [
            {"before": one.before.ranks, "after": one.after.ranks, "overhead": one.overhead} for one in sweep.doublings
        ],
    }


@router.get("/{name}", response={200: NodeOut, **FIND_CODES}, summary="One node")
def get_node(request: HttpRequest, name: Name) -> dict[str, Any]:
    return _out(find(name))


@router.post("/{name}/drain", response={200: NodeOut, **FIND_CODES}, summary="Let nothing new start on it (staff)")
def drain(request: HttpRequest, name: Name) -> dict[str, Any]:
    return _set(request, name, Node.State.DRAINING)


@router.post("/{name}/resume", response={200: NodeOut, **FIND_CODES}, summary="Let jobs start on it again (staff)")
def resume(request: HttpRequest, name: Name) -> dict[str, Any]:
    return _set(request, name, Node.State.ACTIVE)


def _set(request: HttpRequest, name: str, state: str) -> dict[str, Any]:
    staff = staff_of(request)
    node = find(name)
    services.set_state(staff, node, state)
    return _out(node)


def _out(node: Node) -> dict[str, Any]:
    return shape(node, holders(), selectors.latest_preflight(node))
