"""Deletes what is beyond the limits (LIFTOFF_KEEP): metrics, logs, events and results of finished jobs, and what
nodes' pages tell of long ago.

Never what a live job or the catalog needs. Bounded work a call, in short transactions. Knows nothing of nodes' disks.
"""

import logging
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import Count, Exists, Max, Min, Model, OuterRef, QuerySet

from portal.accounts.services import audit
from portal.catalog.models import Adapter, ModelProfile
from portal.fleet.models import NodeEvent
from portal.jobs.lifecycle import FINAL
from portal.jobs.models import Attempt
from portal.telemetry import results
from portal.telemetry.models import AttemptEvent, LogLine, MetricPoint
from workers.contract.keeping import DAY_S, Doomed, Limit, Thing, select

log = logging.getLogger(__name__)

ROWS: dict[str, type[Model]] = {"metrics": MetricPoint, "logs": LogLine, "events": AttemptEvent}
BATCH_ROWS = 5000
"""Deleted in one transaction."""
PAUSE_S = 0.02
"""Between two, so that others who write to SQLite get their turn."""
MOST_ROWS = 50_000
MOST_ATTEMPTS = 500
MOST_RESULTS = 200
"""Of each, at most, in one call."""


class Gone(NamedTuple):
    """What was deleted, or would be."""

    what: str
    """In words: 'metrics of job #3, attempt 1', 'what happened to nodes', or a URI."""
    size: int
    """Rows, or bytes of a result."""
    kind: str
    """metrics, logs, events, nodes or results."""
    why: str

    def __str__(self) -> str:
        size = f"{self.size / 2**20:,.1f} MiB" if self.kind == "results" else f"{self.size:,} rows"
        return f"{self.what}: {size}; {self.why}"


class Sweep(NamedTuple):
    """One call's work."""

    gone: list[Gone]
    more: bool
    """There is more to do than one call does: call again soon."""

    def totals(self) -> str:
        """In words: '1,200 rows of metrics, 3 results (10.5 MiB)'; '' for nothing."""
        rows = {kind: sum(item.size for item in self.gone if item.kind == kind) for kind in (*ROWS, "nodes")}
        words = [f"{count:,} rows of {kind}" for kind, count in rows.items() if count]
        if kept := [item.size for item in self.gone if item.kind == "results"]:
            words.append(f"{len(kept)} results ({sum(kept) / 2**20:,.1f} MiB)")
        return ", ".join(words)


def sweep_once(now: datetime, *, dry_run: bool = False) -> Sweep:
    """Delete what is beyond the limits, oldest first. With `dry_run` nothing is deleted and everything listed.

    May take seconds where there are millions of rows: not for a loop that others wait for.
    """
    gone: list[Gone] = []
    more = False
    for kind, records in ROWS.items():
        doomed = select(_things(kind, records, now), _limit(kind), now.timestamp())
        if dry_run:
            gone += _counted(kind, records, doomed)
            continue
        deleted, unfinished = _delete_rows(kind, records, doomed)
        gone, more = gone + deleted, more or unfinished
    for part in (_sweep_node_events, _sweep_results):
        deleted, unfinished = part(now, dry_run)
        gone, more = gone + deleted, more or unfinished
    sweep = Sweep(gone, more)
    if sweep.gone and not dry_run:
        audit(None, "sweep", "retention", sweep.totals())
    return sweep


class Rows(NamedTuple):
    """The rows of one kind that an attempt has."""

    attempt: int
    job: int
    number: int

    def __str__(self) -> str:
        return f"job #{self.job}, attempt {self.number}"


def _limit(kind: str) -> Limit:
    limit: Limit = settings.LIFTOFF_KEEP[kind]
    return limit


def _things(kind: str, records: type[Model], now: datetime) -> Iterator[Thing[Rows]]:
    """Attempts with rows of this kind. Counts them only when they may be too many, which reads the whole table."""
    limit = _limit(kind)
    manager = records._default_manager
    ends = manager.aggregate(first=Min("pk"), last=Max("pk"))
    if ends["last"] is None:
        return
    at_most = ends["last"] - ends["first"] + 1
    attempts = Attempt.objects.order_by("job__finished_at", "pk")
    counts: dict[int, int] = {}
    if limit.size and at_most > limit.size:
        counts = dict(manager.order_by().values_list("attempt_id").annotate(rows=Count("pk")))
    elif limit.days:
        oldest = datetime.fromtimestamp(now.timestamp() - limit.days * DAY_S, now.tzinfo)
        old = attempts.filter(job__status__in=FINAL, job__finished_at__lt=oldest)
        attempts = old.filter(Exists(manager.filter(attempt_id=OuterRef("pk"))))
    else:
        return
    made = {
        number: f"{what} {name}"
        for what, records in (("adapter", Adapter), ("model", ModelProfile))
        for number, name in records.objects.exclude(job_number=None).values_list("job_number", "name")
    }
    columns = ("pk", "job_id", "number", "job__status", "job__finished_at")
    for pk, job, number, status, finished_at in attempts.values_list(*columns).iterator(5000):
        if counts and pk not in counts:
            continue
        held = "" if status in FINAL and finished_at else f"job #{job} is live"
        if kind == "events" and job in made:
            held = held or made[job]  # they say what it was made of and how good it is
        at = finished_at.timestamp() if finished_at else now.timestamp()
        yield Thing(Rows(pk, job, number), at, counts.get(pk, 0), held)


def _of(records: type[Model], rows: Rows) -> QuerySet[Any]:
    return records._default_manager.filter(attempt_id=rows.attempt)


def _delete_rows(kind: str, records: type[Model], doomed: list[Doomed[Rows]]) -> tuple[list[Gone], bool]:
    """(what was deleted, whether some is left)."""
    gone: list[Gone] = []
    left = MOST_ROWS
    for thing, why in doomed[:MOST_ATTEMPTS]:
        deleted = 0
        while left > 0:
            batch = _of(records, thing.key).order_by("pk").values("pk")[: min(BATCH_ROWS, left)]
            count, _ = records._default_manager.filter(pk__in=batch).delete()
            deleted, left = deleted + count, left - count
            if count < BATCH_ROWS:
                break
            time.sleep(PAUSE_S)
        if deleted:
            gone.append(Gone(f"{kind} of {thing.key}", deleted, kind, why))
        if left <= 0:
            return gone, True
    return gone, len(doomed) > MOST_ATTEMPTS


def _sweep_node_events(now: datetime, dry_run: bool) -> tuple[list[Gone], bool]:
    """As `_delete_rows`, of what happened to nodes."""
    limit = _limit("nodes")
    rows = NodeEvent.objects.order_by("pk")
    doomed = []
    if limit.days:
        doomed.append((rows.filter(at__lt=now - timedelta(days=limit.days)), limit.too_old()))
    if limit.size and (first_over := NodeEvent.objects.order_by("-pk").values_list("pk", flat=True)[limit.size :][:1]):
        doomed.append((rows.filter(pk__lte=first_over[0]), limit.too_much()))
    gone = []
    left = MOST_ROWS
    for events, why in doomed:
        count = events.count() if dry_run else 0
        while not dry_run and left > 0:
            batch, _ = NodeEvent.objects.filter(pk__in=events.values("pk")[: min(BATCH_ROWS, left)]).delete()
            count, left = count + batch, left - batch
            if not batch:
                break
            time.sleep(PAUSE_S)
        if count:
            gone.append(Gone("what happened to nodes", count, "nodes", why))
    return gone, left <= 0


def _sweep_results(now: datetime, dry_run: bool) -> tuple[list[Gone], bool]:
    """As `_delete_rows`. A store that is away is swept another time."""
    limit = _limit("results")
    try:
        doomed = select(results.things(now, limit), limit, now.timestamp())
    except OSError as error:
        log.warning("the artifact store can't be swept now: %s", error)
        return [], False
    chosen = doomed if dry_run else results.remove(doomed[:MOST_RESULTS])
    gone = [Gone(item.thing.key, item.thing.size, "results", item.why) for item in chosen]
    return gone, bool(gone) and not dry_run and len(doomed) > MOST_RESULTS


def _counted(kind: str, records: type[Model], doomed: list[Doomed[Rows]]) -> list[Gone]:
    return [
        Gone(f"{kind} of {thing.key}", thing.size or _of(records, thing.key).count(), kind, why)
        for thing, why in doomed
    ]
