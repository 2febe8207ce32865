"""The jobs that wait: as the scheduler wants them, and what they are told of why and how long.

What one round reads and writes grows with what changed, not with the queue. Does not decide anything (scheduler).
"""

import time
from collections.abc import Hashable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import Coalesce

from portal.accounts.selectors import teams
from portal.jobs.forecasts import NONE, Forecasts, alike, device_kinds
from portal.jobs.lifecycle import Status
from portal.jobs.models import Job
from portal.jobs.notify import jobs_changed
from portal.jobs.scheduler import Wait, Waiting
from workers.contract.resources import Resources
from workers.contract.spec import JOB_SPEC, Spec

TOLD_AT_ONCE = 50
"""Sentences written in one round: first to those that know nothing yet, then in the queue's order."""
STEADY_S = 60.0

Key = tuple[int, int]
"""A job's number and that of its last attempt: it waits anew after each."""

_waiting: dict[Key, Waiting] = {}
"""Waiting jobs, their specs parsed once."""
_unplanned: dict[Key, tuple[Spec, str]] = {}
"""Those of them that have no forecast yet, and what they have it in common by (forecasts.alike)."""
FORECAST_S = 0.02
"""Time for forecasts in one round; jobs that are alike have theirs at once."""


class Told(NamedTuple):
    """What a waiting job's page says now."""

    position: int | None
    reason: str
    expected_start_at: datetime | None


def _due(now: datetime) -> QuerySet[Job]:
    """The queue without what waits for its back-off."""
    return Job.objects.filter(Q(not_before=None) | Q(not_before__lte=now), status=Status.QUEUED)


class Mark(NamedTuple):
    """Another one where the queue is another one: how many wait, who, and after how many attempts."""

    jobs: int
    numbers: int | None
    attempts: int | None


def mark(now: datetime) -> Mark:
    """The queue's mark."""
    sums = _due(now).order_by().aggregate(jobs=Count("pk"), numbers=Sum("pk"), attempts=Sum("attempt_number"))
    return Mark(**sums)


def read(now: datetime) -> list[Waiting]:
    """The queue as the scheduler weighs it."""
    rows = list(_due(now).order_by("pk").values_list("pk", "attempt_number", "owner_id"))
    team = teams({owner for _, _, owner in rows}) if rows else {}
    keys = {(pk, number): team[owner] for pk, number, owner in rows}
    forecasts = _forecasts(device_kinds(), _database()) if rows else None
    for key in _waiting.keys() - keys.keys():
        del _waiting[key]
        _unplanned.pop(key, None)
    _make({key for key in keys if key not in _waiting or _waiting[key].team != keys[key]}, keys)
    if forecasts is not None:
        _foresee(forecasts)
    return [_waiting[key] for key in keys]


def _database() -> Hashable:
    """Another one in another database, where the same numbers are other jobs'."""
    return Job.objects.order_by("pk").values_list("pk", "created_at").first()


@lru_cache(1)
def _forecasts(kinds: Hashable, database: Hashable) -> Forecasts:
    """Those for the fleet as it is; whatever was planned for another one is planned anew."""
    _waiting.clear()
    _unplanned.clear()
    return Forecasts()


def _foresee(forecasts: Forecasts) -> None:
    """Have forecasts of as many as there is time for, those that were submitted first before the others."""
    until = time.monotonic() + FORECAST_S
    for key, (spec, common) in list(_unplanned.items()):
        forecast = forecasts.of(spec, common, in_haste=time.monotonic() > until)
        if forecast is None:
            continue
        del _unplanned[key]
        if forecast != NONE:
            _waiting[key] = replace(_waiting[key], duration_s=forecast.seconds, planned_bytes=forecast.planned_bytes)


def _make(keys: set[Key], team: dict[Key, str]) -> None:
    """Have these jobs in `_waiting`."""
    numbers = dict(keys)
    since = Coalesce("queued_at", "created_at")
    rows = Job.objects.filter(pk__in=list(numbers)).order_by("pk").values_list("pk", "spec", since)
    for pk, spec, at in rows.iterator(2000) if numbers else ():
        key = pk, numbers[pk]
        parsed = JOB_SPEC.validate_python(spec)
        _unplanned[key] = parsed, alike(parsed)
        _waiting[key] = waiting_of(pk, parsed, team[key], at)


def waiting_of(pk: int, spec: Spec, team: str, queued_at: datetime) -> Waiting:
    """A job as the scheduler weighs it. `queued_at`: all the time since then it has waited."""
    return Waiting(
        job=pk,
        resources=_shared(type(spec.resources), spec.resources.model_dump_json()),
        nodes=spec.resources.nodes,
        kind=spec.kind,
        team=team,
        priority=spec.priority,
        queued_at=queued_at.timestamp(),
        until_stopped=spec.kind == "launch",
        preferred=spec.resources.preferred_labels,
    )


@lru_cache(4096)
def _shared(kind: type[Resources], resources: str) -> Resources:
    """The same object for all that ask for the same."""
    return kind.model_validate_json(resources)


def told(now: datetime) -> dict[int, Told]:
    """What each waiting job has been told."""
    columns = ("pk", "queue_position", "waiting_for", "expected_start_at")
    return {pk: Told(*words) for pk, *words in _due(now).order_by("pk").values_list(*columns)}


def news(waits: Iterable[Wait], told: dict[int, Told], now: datetime) -> list[tuple[int, Told]]:
    """What differs from what was told: first for those that know no place yet, then in the queue's order."""
    found = []
    for wait in waits:
        seconds = wait.expected_in_s
        new = Told(wait.position, wait.reason[:400], None if seconds is None else now + timedelta(seconds=seconds))
        if wait.job not in told or _differs(told[wait.job], new):
            found.append((wait.job, new))
    return sorted(found, key=lambda one: one[0] in told and told[one[0]].position is not None)


def tell(news: Iterable[tuple[int, Told]]) -> None:
    """Write it, for those that still wait."""
    changed = [
        Job(pk=pk, queue_position=new.position, waiting_for=new.reason, expected_start_at=new.expected_start_at)
        for pk, new in news
    ]
    if changed:
        fields = ["queue_position", "waiting_for", "expected_start_at"]
        Job.objects.filter(status=Status.QUEUED).bulk_update(changed, fields)
        jobs_changed([job.pk for job in changed])


def _differs(old: Told, new: Told) -> bool:
    """An expected start moves with every second; only by more than STEADY_S is it news."""
    if old[:2] != new[:2] or (old.expected_start_at is None) != (new.expected_start_at is None):
        return True
    if old.expected_start_at is None or new.expected_start_at is None:
        return False
    return abs((new.expected_start_at - old.expected_start_at).total_seconds()) > STEADY_S
