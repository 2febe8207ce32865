"""Stores batches of events and carries their meaning to the services: the only writer of the telemetry tables.

Storing a batch twice, or out of order, changes nothing the second time. Knows nothing of Redis.
"""

import logging
import math

from django.db import transaction

from portal.fleet.services import record_preflight
from portal.jobs import measurements, services
from portal.jobs.models import Attempt
from portal.serving.services import mark_ready
from portal.telemetry.models import AttemptEvent, LogLine, MetricPoint
from workers.contract.events import (
    Artifact,
    Envelope,
    Finished,
    Log,
    Metric,
    Phase,
    Progress,
    Ready,
    Result,
    Started,
)

log = logging.getLogger(__name__)


def record(envelopes: list[Envelope]) -> None:
    """Store the events of one attempt, then apply what they mean. An unknown attempt's are dropped with a warning."""
    if not envelopes:
        return
    job, number = envelopes[0].job, envelopes[0].attempt
    attempt = Attempt.objects.select_related("job", "node").filter(job_id=job, number=number).first()
    if attempt is None:
        log.warning("events of job %s attempt %s, which is not known here, were dropped", job, number)
        return
    envelopes = [envelope for envelope in envelopes if envelope.token == attempt.order.get("token", "")]
    if not envelopes:
        log.warning("events of another job %s attempt %s were dropped: their token is not this attempt's", job, number)
        return
    _store(attempt, envelopes)
    progress: Progress | None = None
    for envelope in envelopes:
        match envelope.event:
            case Progress() as latest:
                progress = latest
            case event:
                if isinstance(event, Phase):
                    progress = None  # of the phase before
                _apply(attempt, event)
    if progress is not None:
        services.report(
            job,
            number,
            progress_done=progress.done,
            progress_total=progress.total,
            progress_unit=progress.unit,
            eta_s=progress.eta_s,
        )


@transaction.atomic
def _store(attempt: Attempt, envelopes: list[Envelope]) -> None:
    points: list[MetricPoint] = []
    lines: list[LogLine] = []
    others: list[AttemptEvent] = []
    for envelope in envelopes:
        event, seq, at = envelope.event, envelope.seq, envelope.at
        if isinstance(event, Metric):
            points.extend(
                MetricPoint(attempt=attempt, seq=seq, name=name[:60], step=event.step, at=at, value=value)
                for name, value in event.values.items()
                if math.isfinite(value)
            )
        elif isinstance(event, Log):
            # PostgreSQL's text holds no NUL.
            text = event.text.replace("\0", "�")
            lines.append(LogLine(attempt=attempt, seq=seq, at=at, stream=event.stream, text=text))
        elif not isinstance(event, Progress):
            payload = event.model_dump(mode="json", exclude={"type"})
            others.append(AttemptEvent(attempt=attempt, seq=seq, at=at, type=event.type, payload=payload))
    MetricPoint.objects.bulk_create(points, ignore_conflicts=True, batch_size=500)
    LogLine.objects.bulk_create(lines, ignore_conflicts=True, batch_size=500)
    AttemptEvent.objects.bulk_create(others, ignore_conflicts=True, batch_size=500)
    last = max(envelope.seq for envelope in envelopes)
    Attempt.objects.filter(pk=attempt.pk, last_seq__lt=last).update(last_seq=last)


def _apply(attempt: Attempt, event: object) -> None:
    job, number = attempt.job_id, attempt.number
    match event:
        case Started():
            services.mark_started(job, number)
        case Phase(name=name):
            services.report(job, number, phase=name[:80], progress_done=0, progress_total=0, eta_s=None)
        case Ready(url=url, model=model):
            mark_ready(attempt, url, model)
            services.announce(job)
        case Result(name="preflight", values=values):
            record_preflight(attempt.node, job_number=job, attempt_number=number, values=values)
        case Result(name="measured", values=values):
            measurements.record(attempt, values)
        case Artifact(kind=kind, uri=uri, bytes=size, sha256=sha256):
            services.artifact_stored(job, number, kind=kind, uri=uri, size=size, sha256=sha256)
        case Finished(reason=reason, detail=detail):
            services.finish(job, number, reason, detail)
        case _:
            pass
