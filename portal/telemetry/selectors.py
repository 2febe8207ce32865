"""Reads what was recorded, and draws the whole picture of a job for pages, REST and websockets.

Writes nothing. Knows nothing of the stream; what is not ingested yet is not here.
"""

from collections import defaultdict
from datetime import datetime
from typing import Any

from django.db.models import Max, Q

from portal.catalog.models import Adapter, ModelProfile
from portal.jobs.lifecycle import FINAL, Status
from portal.jobs.models import Allocation, Attempt, Job
from portal.jobs.selectors import current_attempt, team
from portal.serving.models import Endpoint
from portal.telemetry import points
from portal.telemetry.cursor import START, Cursor
from portal.telemetry.downsample import Point, min_max
from portal.telemetry.models import AttemptEvent, LogLine, MetricPoint
from workers.contract.reasons import Reason

GIB = 2**30
MAX_POINTS = 2000


def stored_cursor(job: Job) -> Cursor:
    """The place up to which the job's events are in the store."""
    attempt = job.attempts.aggregate(number=Max("number"))["number"]
    if attempt is None:
        return START
    return Cursor(attempt, job.attempts.values_list("last_seq", flat=True).get(number=attempt))


def _after(since: Cursor) -> Q:
    return Q(attempt__number__gt=since.attempt) | Q(attempt__number=since.attempt, seq__gt=since.seq)


def metrics(
    job: Job,
    *,
    names: list[str] | None = None,
    attempt: int | None = None,
    since: Cursor = START,
    max_points: int = MAX_POINTS,
) -> dict[str, list[Point]]:
    """Name → points in order, at most `max_points` of each series (min–max downsampled)."""
    rows = MetricPoint.objects.filter(_after(since), attempt__job=job)
    if names:
        rows = rows.filter(name__in=names)
    if attempt is not None:
        rows = rows.filter(attempt__number=attempt)
    series: dict[str, list[points.Row]] = defaultdict(list)
    for row in points.rows(rows):
        series[row[0]].append(row)
    limit = max(4, min(max_points, MAX_POINTS))
    return {name: _thinned(of_one, limit) for name, of_one in series.items()}


def _thinned(rows: list[points.Row], limit: int) -> list[Point]:
    kept = (rows[place] for place in min_max([row[-1] for row in rows], limit))
    return [
        {"attempt": number, "seq": seq, "step": step, "at": at, "value": value}
        for _, number, seq, step, at, value in kept
    ]


def log_lines(
    job: Job,
    *,
    attempt: int | None = None,
    since_seq: int = 0,
    since: Cursor = START,
    limit: int = 500,
    tail: bool = False,
) -> list[dict[str, Any]]:
    """Lines in order: the first `limit` after the place given, or the last `limit` with `tail`."""
    rows = LogLine.objects.filter(_after(since), attempt__job=job)
    if attempt is not None:
        rows = rows.filter(attempt__number=attempt)
    if since_seq:
        rows = rows.filter(seq__gt=since_seq)
    order = ("-attempt__number", "-seq") if tail else ("attempt__number", "seq")
    columns = ("attempt__number", "seq", "at", "stream", "text")
    lines = [
        {"attempt": number, "seq": seq, "at": at, "stream": stream, "text": text}
        for number, seq, at, stream, text in rows.order_by(*order).values_list(*columns)[:limit]
    ]
    return lines[::-1] if tail else lines


def events(job: Job, *, since: Cursor | None = None, limit: int = 1000) -> list[dict[str, Any]]:
    """Stored events of every kind after `since`, in order of (attempt, seq), at most `limit`."""
    after = _after(since or START)
    found: dict[tuple[int, int], dict[str, Any]] = {}
    values = MetricPoint.objects.filter(after, attempt__job=job).order_by("attempt__number", "seq", "name")
    columns = ("attempt__number", "seq", "step", "at", "name", "value")
    for number, seq, step, at, name, value in values.values_list(*columns).iterator(2000):
        key = (number, seq)
        if key not in found and len(found) >= limit:
            break
        event = found.setdefault(
            key, {"attempt": number, "seq": seq, "at": at, "type": "metric", "step": step, "values": {}}
        )
        event["values"][name] = value
    for line in log_lines(job, since=since or START, limit=limit):
        found[line["attempt"], line["seq"]] = {**line, "type": "log"}
    others = AttemptEvent.objects.filter(after, attempt__job=job).order_by("attempt__number", "seq")
    for number, seq, at, type_, payload in others.values_list("attempt__number", "seq", "at", "type", "payload")[
        :limit
    ]:
        found[number, seq] = {**payload, "attempt": number, "seq": seq, "at": at, "type": type_}
    return [found[key] for key in sorted(found)][:limit]


def results(job: Job) -> dict[str, dict[str, Any]]:
    """Result name → values, of the newest attempt that reported it."""
    rows = AttemptEvent.objects.filter(attempt__job=job, type="result").order_by("attempt__number", "seq")
    return {payload["name"]: payload["values"] for payload in rows.values_list("payload", flat=True)}


def artifacts(job: Job) -> list[dict[str, Any]]:
    """What the job's attempts put in the artifact store: name, kind, uri, bytes, sha256, attempt."""
    rows = AttemptEvent.objects.filter(attempt__job=job, type="artifact").order_by("attempt__number", "seq")
    keys = ("name", "kind", "uri", "bytes", "sha256")
    return [
        {**{key: payload.get(key) for key in keys}, "attempt": number}
        for number, payload in rows.values_list("attempt__number", "payload")
    ]


def snapshot(job: Job) -> dict[str, Any]:
    """All a viewer needs to draw the job, JSON-able; times in ISO 8601, None where there is nothing."""
    attempt = current_attempt(job)
    final = Status(job.status) in FINAL
    endpoint = Endpoint.objects.filter(attempt=attempt).first() if attempt and job.status == Status.RUNNING else None
    adapter, made = (
        records.objects.filter(job_number=job.pk).values_list("name", flat=True).first()
        for records in (Adapter, ModelProfile)
    )
    return {
        "id": job.pk,
        "name": job.name,
        "kind": job.kind,
        "status": job.status,
        "final": final,
        "phase": job.phase,
        "reason": job.reason or None,
        "sentence": Reason(job.reason).sentence if job.reason else None,
        "detail": job.detail,
        "attempt": job.attempt_number,
        "progress": {
            "done": job.progress_done,
            "total": job.progress_total,
            "unit": job.progress_unit,
            "eta_s": job.eta_s,
        },
        "queue": {
            "position": job.queue_position,
            "waiting_for": job.waiting_for,
            "expected_start_at": _iso(job.expected_start_at),
        }
        if job.status == Status.QUEUED
        else None,
        "node": attempt.node.name if attempt else None,
        "devices": _devices(attempt),
        "team": team(attempt),
        "owner": job.owner.get_username(),
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "finished_at": _iso(job.finished_at),
        "spec": job.spec,
        "timeline": [
            {
                "at": _iso(change.at),
                "old": change.old,
                "new": change.new,
                "reason": change.reason or None,
                "note": change.note,
                "attempt": change.attempt_number,
            }
            for change in job.transitions.all()
        ],
        "attempts": [
            {
                "number": one.number,
                "node": one.node.name,
                "resumed_from": one.resumed_from(),
                "reason": one.reason or None,
                "sentence": one.get_sentence() or None,
                "detail": one.detail,
                "started_at": _iso(one.started_at),
                "finished_at": _iso(one.finished_at),
            }
            for one in job.attempts.select_related("node").order_by("number")
        ],
        "results": results(job),
        "artifacts": artifacts(job),
        "adapter": adapter,
        "made_model": made,
        "replica_of": job.replica_of_id,
        "replicas": _replicas(job) if job.kind == "launch" else [],
        "endpoint": {"model": endpoint.model_name, "ready_at": _iso(endpoint.ready_at)} if endpoint else None,
    }


def _replicas(job: Job) -> list[dict[str, Any]]:
    """A launch and its further copies, if there are any; of a copy nothing."""
    copies = list(job.replicas.order_by("pk"))
    rows = [job, *copies] if copies else []
    return [{"job": row.pk, "name": row.name, "status": row.status, "reason": row.reason or None} for row in rows]


def _devices(attempt: Attempt | None) -> list[str]:
    if attempt is None:
        return []
    held = attempt.allocations.select_related("accelerator__node").order_by(
        "accelerator__node__name", "accelerator__kind", "accelerator__index"
    )
    return [
        (f"{a.accelerator.node.name} " if attempt.nodes > 1 else "")
        + f"{a.accelerator.kind}:{a.accelerator.index} {a.accelerator.name}".strip()
        + _shared(a, attempt)
        for a in held
    ]


def _shared(allocation: Allocation, attempt: Attempt) -> str:
    """How much of a device it takes and beside whom; '' for one that it has alone."""
    if allocation.reserved_bytes is None:
        return ""
    words = f", {allocation.reserved_bytes / GIB:.1f} of {allocation.accelerator.memory_bytes / GIB:.1f} GiB"
    if allocation.released_at is None:
        others = Allocation.objects.filter(accelerator=allocation.accelerator, released_at=None)
        beside = others.exclude(attempt=attempt).order_by("pk").values_list("attempt__job_id", flat=True)
        words += ", shared with " + (", ".join(f"#{job}" for job in beside) or "nobody now")
    return words


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
