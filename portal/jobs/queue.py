"""The jobs that wait: as the scheduler wants them, and what they are told of why and how long.

What one round reads and writes grows with what changed, not with the queue. Does not decide anything (scheduler).
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Q

from portal.accounts.selectors import teams
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

Spec = FinetuneSpec | LaunchSpec | PreflightSpec

_specs: dict[Key, Spec] = {}
"""What waiting jobs ask for, parsed once."""


class Told(NamedTuple):
    """What a waiting job's page says now."""

    position: int | None
    reason: str
    expected_start_at: datetime | None


class Queue(NamedTuple):
    """The jobs that may start, by number, and what each has been told."""

    jobs: list[Waiting]
    told: dict[int, Told]


def read(now: datetime) -> Queue:
    """The queue without what waits for its back-off."""
    due = Q(not_before=None) | Q(not_before__lte=now)
    columns = (
        "pk", "created_at", "queued_at", "owner_id", "queue_position", "waiting_for", "expected_start_at",
    )  # fmt: skip
    rows = list(Job.objects.filter(due, status=Status.QUEUED).order_by("pk").values_list(*columns))
    _parse_new([(pk, created_at) for pk, created_at, *_ in rows])
    team = teams(owner for _, _, _, owner, *_ in rows) if rows else {}
    return Queue(
        [
            waiting_of(pk, _specs[pk, created_at], team[owner], queued_at or created_at)
            for pk, created_at, queued_at, owner, *_ in rows
        ],
        {pk: Told(position, reason, expected) for pk, _, _, _, position, reason, expected in rows},
    )


def waiting_of(pk: int, spec: Spec, team: str, queued_at: datetime) -> Waiting:
    """A job as the scheduler weighs it. `queued_at`: all the time since then it has waited."""
    return Waiting(
        job=pk,
        resources=spec.resources,
        kind=spec.kind,
        team=team,
        priority=spec.priority,
        queued_at=queued_at.timestamp(),
        until_stopped=spec.kind == "launch",
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
