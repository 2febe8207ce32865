"""Reads jobs and what they hold. The whole picture of one job is portal.telemetry.selectors.snapshot.

Writes nothing.
"""

from collections import defaultdict
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet

from portal.jobs.lifecycle import HOLDS_DEVICES, Status
from portal.jobs.models import Allocation, Attempt, Job
from workers.contract.order import Order


def jobs(*, status: str = "", kind: str = "", search: str = "") -> QuerySet[Job]:
    """Jobs, newest first. `status` is a status or 'live'; `search` looks into the name, or is a number."""
    rows = Job.objects.select_related("owner").order_by("-id")
    if status == "live":
        rows = rows.filter(status__in=[Status.QUEUED, *HOLDS_DEVICES])
    elif status:
        rows = rows.filter(status=status)
    if kind:
        rows = rows.filter(kind=kind)
    search = search.replace("\0", "")  # PostgreSQL's text holds none
    if search:
        number = search.lstrip("#")
        match = Q(name__icontains=search) | Q(owner__username__icontains=search)
        rows = rows.filter(match | Q(pk=int(number)) if number.isdecimal() and len(number) < 18 else match)
    return rows


def get_job(pk: int) -> Job:
    """One job. Raises Job.DoesNotExist."""
    return Job.objects.select_related("owner").get(pk=pk)


def current_attempt(job: Job) -> Attempt | None:
    """The job's current attempt with its node, None before the first."""
    return job.attempts.select_related("node").filter(number=job.attempt_number).first()


def team(attempt: Attempt | None) -> dict[str, Any] | None:
    """Where the nodes of an attempt on several meet, and what each was told and says; None for one on one node."""
    if attempt is None or attempt.nodes == 1:
        return None
    orders = [(member, Order.model_validate(member.order)) for member in attempt.members.select_related("node")]
    return {
        "endpoint": orders[0][1].team.endpoint if orders[0][1].team else "",
        "nodes": [
            {
                "node": member.node.name,
                "devices": [f"{device.kind}:{device.index} {device.name}".strip() for device in order.devices],
                "settings": order.team.settings if order.team else {},
                "reason": member.reason or None,
                "detail": member.detail,
                "output": member.output,
            }
            for member, order in orders
        ],
    }


def queue_length() -> int:
    """Jobs that wait."""
    return Job.objects.filter(status=Status.QUEUED).count()


class Holder(NamedTuple):
    """A job on a device. `reserved_bytes`: it shares it and is planned to take so much; None: all of it."""

    job: Job
    reserved_bytes: int | None


def holders() -> dict[int, list[Holder]]:
    """Accelerator id → the jobs that hold it: one, or those that share it."""
    live = Allocation.objects.filter(released_at=None).select_related("attempt__job")
    live = live.defer("attempt__order", "attempt__predicted", "attempt__job__spec")
    found: dict[int, list[Holder]] = defaultdict(list)
    for allocation in live.order_by("pk"):
        found[allocation.accelerator_id].append(Holder(allocation.attempt.job, allocation.reserved_bytes))
    return dict(found)
