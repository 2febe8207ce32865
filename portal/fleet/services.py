"""Writes the inventory: what workers report of their nodes, and drain or resume. Knows nothing of jobs."""

import logging
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from pydantic import ValidationError

from portal.accounts.services import audit
from portal.fleet.models import Accelerator, Link, Node, PreflightReport
from workers.contract.errors import Refused
from workers.contract.events import Heartbeat, NodeProfile
from workers.contract.preflight import Report

log = logging.getLogger(__name__)


def heartbeat(beat: Heartbeat) -> None:
    """Record that the node is alive, and its profile when the beat carries one."""
    if beat.profile is not None:
        record_profile(beat.profile)
    Node.objects.filter(name=beat.node).update(last_seen_at=datetime.fromtimestamp(beat.at, UTC))


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


def set_state(user: User, node: Node, state: str) -> None:
    """Drain a node (it finishes what it runs, nothing new starts) or resume it. Raises Refused for another state."""
    if state not in Node.State.values:
        raise Refused.at("state", state, f"state: {state!r} is not a state of a node; use 'active' or 'draining'.")
    Node.objects.filter(pk=node.pk).update(state=state)
    node.state = state
    audit(user, "drain node" if state == Node.State.DRAINING else "resume node", f"node {node.name}")
