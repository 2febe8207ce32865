"""Pages of the nodes: the inventory with the jobs that hold it, and its preflights. Drain and resume are for staff."""

from dataclasses import dataclass

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe
from pydantic import ValidationError

from portal.accounts.requests import SignedInRequest
from portal.fleet import selectors, services
from portal.fleet.fabric import fabric_of
from portal.fleet.models import Accelerator, Node, PreflightReport
from portal.jobs import services as jobs
from portal.jobs.measurements import rules
from portal.jobs.selectors import Holder, holders
from portal.jobs.strangers import Stranger, told_of
from portal.pages.sweep_chart import Drawing, drawing
from workers.contract.errors import Refused, from_pydantic
from workers.contract.names import SLUG
from workers.contract.resources import Resources
from workers.contract.spec import PreflightSpec
from workers.contract.sweep import Sweep

MOST_DEVICES = 64
"""A job's most, by the contract."""


@dataclass(frozen=True)
class Device:
    """An accelerator and the jobs that hold it."""

    device: Accelerator
    holders: list[Holder]

    @property
    def strangers(self) -> list[Stranger]:
        """Who else holds memory of it."""
        return told_of(self.device)


@dataclass(frozen=True)
class ShownNode:
    """A node as its pages show it. `devices` are those seen at the last probe, `missing` those no more."""

    node: Node
    online: bool
    devices: list[Device]
    missing: list[Device]
    preflight: PreflightReport | None

    @property
    def free(self) -> int:
        """Devices no job holds."""
        return sum(not device.holders for device in self.devices)

    @property
    def disk_is_nearly_full(self) -> bool:
        """Whether nothing new starts on it for that."""
        return selectors.disk_is_nearly_full(self.node)

    @property
    def network(self) -> str:
        """The interface that jobs on several nodes talk over, in words; '' where the worker named none."""
        interface = fabric_of(self.node)
        if interface is None:
            return ""
        speed = f", {interface.bits_per_s / 1e9:g} Gbit/s" if interface.bits_per_s else ""
        return f"{interface.name}, {interface.address}{speed}"

    @property
    def word(self) -> str:
        """The state as one word."""
        if not self.online:
            return "offline"
        return "draining" if self.node.state == Node.State.DRAINING else "online"


@require_safe
@login_required
def node_list(request: SignedInRequest) -> HttpResponse:
    """Every node, its devices and who holds them."""
    held, preflights = holders(), selectors.latest_preflights()
    context = {
        "nodes": [_shown(node, held, preflights.get(node.pk)) for node in selectors.nodes()],
        "redis_is_embedded": settings.REDIS_IS_EMBEDDED,
    }
    return render(request, "fleet/nodes.html", context)


@require_safe
@login_required
def node_page(request: SignedInRequest, name: str) -> HttpResponse:
    """One node, with what its newest preflight found and what happened to it lately."""
    node = _find(name)
    shown = _shown(node, holders(), selectors.latest_preflight(node))
    context = {
        "shown": shown,
        "events": selectors.latest_events(node),
        "sweep": _sweep(node),
        "most_processes": _most_processes(shown),
    }
    return render(request, "fleet/node.html", context)


@require_POST
@login_required
def node_preflight(request: SignedInRequest, name: str) -> HttpResponse:
    """Submit a preflight of the node's free devices, or of all when none is free: then it waits for them."""
    node = _find(name)
    shown = _shown(node, holders(), None)
    devices = min(shown.free or len(shown.devices) or 1, MOST_DEVICES)
    try:
        job, _ = jobs.submit(request.user, PreflightSpec(resources=Resources(node=node.name, devices=devices)))
    except Refused as refused:
        messages.error(request, str(refused))
        return redirect("node", name=node.name)
    return redirect("job", pk=job.pk)


@require_POST
@login_required
def node_sweep(request: SignedInRequest, name: str) -> HttpResponse:
    """Submit an all-reduce sweep up to `processes`, one a GPU."""
    node = _find(name)
    shown = _shown(node, holders(), None)
    try:
        processes = int(request.POST.get("processes") or _most_processes(shown))
        spec = PreflightSpec(
            sweep_processes=processes,
            resources=Resources(node=node.name, devices=processes if _has_gpus(shown) else 1),
        )
        job, _ = jobs.submit(request.user, spec)
    except ValidationError as error:
        messages.error(request, from_pydantic(error)[0].message)
    except ValueError as error:
        sentence = str(error) if isinstance(error, Refused) else "processes: write a whole number, such as 2."
        messages.error(request, sentence)
    else:
        return redirect("job", pk=job.pk)
    return redirect("node", name=node.name)


@require_POST
@login_required
def node_state(request: SignedInRequest, name: str) -> HttpResponse:
    """Drain or resume a node: `state` is draining or active."""
    if not request.user.is_staff:
        raise PermissionDenied("Only staff drains and resumes nodes.")
    node = _find(name)
    try:
        services.set_state(request.user, node, request.POST.get("state", ""))
    except Refused as refused:
        messages.error(request, str(refused))
    else:
        draining = node.state == Node.State.DRAINING
        what = "finishes what it runs, and nothing new starts on it" if draining else "takes jobs again"
        messages.success(request, f"{node.name} {what}.")
    return redirect("node", name=node.name)


def _shown(node: Node, held: dict[int, list[Holder]], preflight: PreflightReport | None) -> ShownNode:
    devices = [Device(device, held.get(device.pk, [])) for device in node.accelerators.all()]
    return ShownNode(
        node=node,
        online=selectors.is_online(node),
        devices=[entry for entry in devices if entry.device.present],
        missing=[entry for entry in devices if not entry.device.present],
        preflight=preflight,
    )


def _sweep(node: Node) -> Drawing | None:
    report = selectors.latest_sweep(node)
    return drawing(Sweep.model_validate(report.sweep), rules(), report) if report else None


def _has_gpus(shown: ShownNode) -> bool:
    return any(entry.device.kind == Accelerator.Kind.CUDA for entry in shown.devices)


def _most_processes(shown: ShownNode) -> int:
    """One a GPU; on a CPU one a core. Below 2 there is nobody to join."""
    return min(len(shown.devices) if _has_gpus(shown) else shown.node.cores, MOST_DEVICES)


def _find(name: str) -> Node:
    node = selectors.nodes().filter(name=name).first() if SLUG.fullmatch(name) else None
    if node is None:
        raise Http404("There is no node of this name.")
    return node
