"""Writes the inventory: what workers report of their nodes, what happens to them, drain or resume.

Knows nothing of jobs.
"""

import logging
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from pydantic import ValidationError

from portal.accounts.services import audit
from portal.fleet.models import Accelerator, Link, Node, NodeEvent, PreflightReport, SweepReport
from portal.fleet.selectors import online_since
from workers.contract.errors import Refused
from workers.contract.events import NodeProfile
from workers.contract.preflight import Report
from workers.contract.sweep import Sweep

log = logging.getLogger(__name__)


def heard(beats: dict[str, datetime]) -> None:
    """Record that nodes are alive: name → when they were heard. One that had been lost is told to be back."""
    lost = Node.objects.filter(name__in=list(beats), last_seen_at__lt=online_since(timezone.now()))
    for node in lost:
        silent = beats[node.name] - node.last_seen_at if node.last_seen_at else timedelta(0)
        note(node, f"Reports again, after {_words(silent)}.")
    by_moment: dict[datetime, list[str]] = defaultdict(list)
    for name, at in beats.items():
        by_moment[at.replace(microsecond=0)].append(name)
    for moment, names in by_moment.items():
        Node.objects.filter(name__in=names).update(last_seen_at=moment)


def note(node: Node, text: str) -> NodeEvent:
    """Tell something on the node's page."""
    return NodeEvent.objects.create(node=node, text=text[:400])


def _words(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def set_strangers(device: Accelerator, strangers: list[dict[str, Any]]) -> None:
    """Keep who holds memory of the device that is nobody's here."""
    Accelerator.objects.filter(pk=device.pk).update(strangers=strangers)


@transaction.atomic
def record_profile(profile: NodeProfile) -> Node:
    """Make the node's record say what its worker found. Labels set here by an admin win over the worker's."""
    node, _ = Node.objects.get_or_create(name=profile.name, defaults={"labels": profile.labels})
    node.address = profile.address
    node.cores = profile.cores
    node.ram_bytes = profile.ram_bytes
    node.disk_free_bytes = profile.disk_free_bytes
    node.disk_read_bytes_per_s = profile.disk_read_bytes_per_s
    node.driver = profile.driver or ""
    node.cuda = profile.cuda or ""
    node.versions = profile.versions
    node.labels = {**profile.labels, **node.labels}
    node.interfaces = [interface.model_dump(mode="json") for interface in profile.interfaces]
    node.save()
    seen = []
    for device in profile.devices:
        accelerator, _ = Accelerator.objects.update_or_create(
            node=node,
            kind=device.kind,
            index=device.index,
            defaults={
                "name": device.name,
                "memory_bytes": device.memory_bytes,
                "uuid": device.uuid,
                "power_limit_w": device.power_limit_w,
                "compute_capability": device.compute_capability or "",
                "present": True,
            },
        )
        seen.append(accelerator.pk)
    node.accelerators.exclude(pk__in=seen).update(present=False)
    for link in profile.links:
        Link.objects.update_or_create(
            node=node, a=link.a, b=link.b, defaults={"kind": link.kind, "detail": link.detail}
        )
    return node


def record_preflight(node: Node, *, job_number: int, attempt_number: int, values: dict[str, Any]) -> None:
    """Keep what an attempt's preflight found. A second word of the same attempt changes nothing.

    `values`: contract Report as its event carries it; one that is none is dropped with a warning.
    """
    try:
        report = Report.model_validate(values)
    except ValidationError as error:
        log.warning("the preflight of job %s attempt %s was dropped: %s", job_number, attempt_number, error)
        return
    PreflightReport.objects.get_or_create(
        job_number=job_number,
        attempt_number=attempt_number,
        defaults={
            "node": node,
            "state": report.state,
            "lines": [line.model_dump(mode="json") for line in report.lines],
            "took_s": report.took_s,
            "at": datetime.fromtimestamp(report.at, UTC),
        },
    )


def record_sweep(node: Node, *, job_number: int, attempt_number: int, values: dict[str, Any]) -> None:
    """Keep what an attempt's all-reduce sweep measured, a contract Sweep; as `record_preflight`."""
    try:
        sweep = Sweep.model_validate(values)
    except ValidationError as error:
        log.warning("the sweep of job %s attempt %s was dropped: %s", job_number, attempt_number, error)
        return
    SweepReport.objects.get_or_create(
        job_number=job_number,
        attempt_number=attempt_number,
        defaults={
            "node": node,
            "sweep": sweep.model_dump(mode="json"),
            "at": datetime.fromtimestamp(sweep.at, UTC),
        },
    )


def set_state(user: User, node: Node, state: str) -> None:
    """Drain a node (it finishes what it runs, nothing new starts) or resume it. Raises Refused for another state."""
    if state not in Node.State.values:
        raise Refused.at("state", state, f"state: {state!r} is not a state of a node; use 'active' or 'draining'.")
    Node.objects.filter(pk=node.pk).update(state=state)
    node.state = state
    audit(user, "drain node" if state == Node.State.DRAINING else "resume node", f"node {node.name}")
