"""The jobs that wait: as the scheduler wants them, and what they are told of why and how long.

What one round reads and writes grows with what changed, not with the queue. Does not decide anything (scheduler).
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Q

from portal.jobs.lifecycle import Status
from portal.jobs.models import Job
from portal.jobs.notify import jobs_changed
from portal.jobs.scheduler import Wait, Waiting
from workers.contract.spec import JOB_SPEC, FinetuneSpec, LaunchSpec, PreflightSpec

TOLD_AT_ONCE = 200
"""Sentences written in one round, the head of the queue first; the rest in the rounds after it."""
STEADY_S = 60.0

Key = tuple[int, datetime]
"""A job's number and when it was submitted: numbers alone come again in another database."""

_specs: dict[Key, FinetuneSpec | LaunchSpec | PreflightSpec] = {}
"""What waiting jobs ask for, parsed once."""


class Told(NamedTuple):
    """What a waiting job's page says now."""

    position: int | None
    reason: str
    expected_start_at: datetime | None


class Queue(NamedTuple):
    """The jobs that may start, in order of submission, and what each has been told."""

    jobs: list[Waiting]
    told: dict[int, Told]


def read(now: datetime) -> Queue:
    """The queue without what waits for its back-off."""
    due = Q(not_before=None) | Q(not_before__lte=now)
    columns = ("pk", "created_at", "queue_position", "waiting_for", "expected_start_at")
    rows = list(Job.objects.filter(due, status=Status.QUEUED).order_by("pk").values_list(*columns))
    keys = [(pk, created_at) for pk, created_at, *_ in rows]
    _parse_new(keys)
    return Queue(
        [Waiting(key[0], _specs[key].resources) for key in keys],
        {pk: Told(position, reason, expected) for pk, _, position, reason, expected in rows},
    )


def tell(waits: Iterable[Wait], told: dict[int, Told], now: datetime) -> int:
    """Write what changed of why jobs wait, TOLD_AT_ONCE at most. How many jobs were told."""
    changed = []
    for wait in waits:
        seconds = wait.expected_in_s
        new = Told(wait.position, wait.reason[:400], None if seconds is None else now + timedelta(seconds=seconds))
        if wait.job not in told or _differs(told[wait.job], new):
            columns = {"queue_position": new.position, "waiting_for": new.reason}
            changed.append(Job(pk=wait.job, expected_start_at=new.expected_start_at, **columns))
        if len(changed) == TOLD_AT_ONCE:
            break
    if changed:
        fields = ["queue_position", "waiting_for", "expected_start_at"]
        Job.objects.filter(status=Status.QUEUED).bulk_update(changed, fields)
        jobs_changed([job.pk for job in changed])
    return len(changed)


def _differs(old: Told, new: Told) -> bool:
    """An expected start moves with every second; only by more than STEADY_S is it news."""
    if old[:2] != new[:2] or (old.expected_start_at is None) != (new.expected_start_at is None):
        return True
    if old.expected_start_at is None or new.expected_start_at is None:
        return False
    return abs((new.expected_start_at - old.expected_start_at).total_seconds()) > STEADY_S


def _parse_new(keys: list[Key]) -> None:
    """Have the specs of these jobs in `_specs`, and of no others."""
    wanted = set(keys)
    for key in _specs.keys() - wanted:
        del _specs[key]
    new = {key[0]: key for key in wanted - _specs.keys()}
    if new:
        for pk, spec in Job.objects.filter(pk__in=list(new)).values_list("pk", "spec").iterator(2000):
            _specs[new[pk]] = JOB_SPEC.validate_python(spec)
