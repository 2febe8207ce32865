"""Stores batches of events and carries their meaning to the services: the only writer of the telemetry tables.

Storing a batch twice, or out of order, changes nothing the second time. What is missing between events is remembered,
and an attempt isn't ended before it has arrived (gaps). Knows nothing of Redis.
"""

import logging
import math
from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from portal.fleet.services import record_preflight, record_sweep
from portal.jobs import dispatch, measurements, members, services
from portal.jobs.models import Attempt, Job, Member
from portal.serving.services import mark_ready, record_load_test
from portal.telemetry.models import AttemptEvent, LogLine, MetricPoint
from portal.telemetry.received import Received
from portal.telemetry.selectors import results
from workers.contract.events import (
    Artifact,
    Checkpoint,
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
from workers.contract.names import fence_of, rank_of
from workers.contract.quantize import RESULT as QUANTIZED
from workers.contract.quantize import QuantizeReport
from workers.contract.reasons import Reason

log = logging.getLogger(__name__)


def record(envelopes: list[Envelope]) -> None:
    """Store the events of one attempt, then apply what they mean: each once, and its end when all before it are there.

    Of an attempt on several nodes, those of one node; the first one's are the attempt's. An unknown attempt's events
    are dropped with a warning. A stale one's are stored and change nothing.
    """
    if not envelopes:
        return
    job, number = envelopes[0].job, envelopes[0].attempt
    known = Attempt.objects.select_related("job", "node").defer("order", "predicted")
    attempt = known.filter(job_id=job, number=number).first()
    if attempt is None:
        log.warning("events of job %s attempt %s, which is not known here, were dropped", job, number)
        return
    token = envelopes[0].token
    if (rank := rank_of(token)) and fence_of(token) == attempt.token:
        _record_further(attempt, rank, [envelope for envelope in envelopes if envelope.token == token])
        return
    envelopes = [envelope for envelope in envelopes if envelope.token == attempt.token]
    if not envelopes:
        log.warning("events of another job %s attempt %s were dropped: their token is not this attempt's", job, number)
        return
    _store(attempt, envelopes)
    before = received(attempt)
    _apply_all(attempt, [envelope for envelope in envelopes if envelope.seq not in before])
    after = before.plus(envelope.seq for envelope in envelopes)
    if after.whole:
        # Before the mark: if this stops here, the events come again, and what they mean is carried out again.
        end(attempt, envelopes)
    mark(attempt, before, after)


def received(attempt: Attempt) -> Received:
    """Which of its events are stored."""
    return Received(attempt.last_seq, tuple((first, last) for first, last in attempt.ahead))


def mark(attempt: Attempt, before: Received, after: Received, now: datetime | None = None) -> None:
    """Remember what has arrived. A new gap is told, and its events asked for again."""
    if after == before:
        return
    gap_since = None if after.whole else attempt.gap_since or now or timezone.now()
    Attempt.objects.filter(pk=attempt.pk, last_seq__lte=after.upto).update(
        last_seq=after.upto, ahead=after.ahead, gap_since=gap_since
    )
    if before.whole and not after.whole:
        first, last = after.missing[0]
        events = f"no. {first}" if first == last else f"no. {first} to {last}"
        node = attempt.node.name
        services.remark(attempt.job_id, f"Events {events} are missing; asked node {node} for them again.")
        dispatch.resend(attempt.job_id, attempt.number, attempt.token, after.upto, node)


def end(attempt: Attempt, envelopes: Iterable[Envelope] = ()) -> None:
    """Finish the attempt as its last event says, which is among `envelopes` or, after a gap, in the store."""
    said = next((one.event for one in envelopes if isinstance(one.event, Finished)), None)
    if said is None and attempt.ahead:
        row = AttemptEvent.objects.filter(attempt=attempt, type="finished").first()
        said = Finished.model_validate(row.payload) if row else None
    if said is not None:
        _finish(attempt, 0, said)


def _finish(attempt: Attempt, rank: int, said: Finished) -> None:
    if attempt.nodes == 1:
        services.finish(attempt.job_id, attempt.number, said.reason, said.detail)
    else:
        members.ended(attempt, rank, said.reason, said.detail)


def _record_further(attempt: Attempt, rank: int, envelopes: list[Envelope]) -> None:
    """A further node of an attempt: its output, its parts of checkpoints and its end. What is lost on the way is not
    waited for."""
    member = Member.objects.filter(attempt=attempt, rank=rank).first()
    if member is None:
        log.warning("events of node %s of %s, which has no such node, were dropped", rank, attempt)
        return
    new = [envelope for envelope in sorted(envelopes, key=lambda one: one.seq) if envelope.seq > member.last_seq]
    members.heard(member, envelopes[-1].seq, [one.event.text for one in new if isinstance(one.event, Log)])
    for event in (envelope.event for envelope in envelopes):
        match event:
            case Checkpoint(step=step, uri=uri, sha256=sha256):
                members.part_stored(attempt, rank, step=step, uri=uri, sha256=sha256)
            case Finished():
                _finish(attempt, rank, event)
            case _:
                pass


def _apply_all(attempt: Attempt, envelopes: list[Envelope]) -> None:
    stale = _is_stale(attempt)
    progress: Progress | None = None
    for event in (envelope.event for envelope in sorted(envelopes, key=lambda one: one.seq)):
        match event:
            case Checkpoint(step=step, uri=uri, sha256=sha256) if attempt.nodes > 1:
                members.part_stored(attempt, 0, step=step, uri=uri, sha256=sha256)
            case Checkpoint(step=step, uri=uri, sha256=sha256):
                services.checkpoint_stored(attempt, step=step, uri=uri, sha256=sha256)
            case _ if stale:
                pass
            case Progress():
                progress = event
            case _:
                if isinstance(event, Phase):
                    progress = None  # of the phase before
                _apply(attempt, event)
    if progress is not None:
        services.report(
            attempt.job_id,
            attempt.number,
            progress_done=progress.done,
            progress_total=progress.total,
            progress_unit=progress.unit,
            eta_s=progress.eta_s,
        )


def _is_stale(attempt: Attempt) -> bool:
    """Whether the attempt was given up, or its job has gone on to another. What completed may still be told of."""
    if attempt.job.attempt_number != attempt.number:
        return True
    return attempt.finished_at is not None and attempt.reason != Reason.COMPLETED


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


def _apply(attempt: Attempt, event: object) -> None:
    job, number = attempt.job_id, attempt.number
    match event:
        case Started(resumed_from=step):
            services.mark_started(job, number, step)
        case Phase(name=name):
            services.report(job, number, phase=name[:80], progress_done=0, progress_total=0, eta_s=None)
        case Ready(url=url, model=model):
            mark_ready(attempt, url, model)
            services.announce(job)
        case Result(name="preflight", values=values):
            record_preflight(attempt.node, job_number=job, attempt_number=number, values=values)
        case Result(name="all_reduce_sweep", values=values):
            record_sweep(attempt.node, job_number=job, attempt_number=number, values=values)
        case Result(name="load_test", values=values) if attempt.job.kind == "load_test":
            record_load_test(attempt, values, _engine_of(attempt.job.spec["launch"]))
        case Result(name="start"):
            services.announce(job)
        case Result(name="measured", values=values) if attempt.nodes == 1:  # the planner counts one node's devices
            measurements.record(attempt, values)
        case Artifact(kind=kind, uri=uri, bytes=size, sha256=sha256):
            quantizes = attempt.job.kind == "quantize"
            measured = QuantizeReport.told(results(attempt.job).get(QUANTIZED)) if quantizes else None
            services.artifact_stored(job, number, kind=kind, uri=uri, size=size, sha256=sha256, measured=measured)
        case _:
            pass


def _engine_of(launch: int) -> str:
    """What a launch said that it answers with."""
    job = Job.objects.filter(pk=launch).first()
    return str(results(job).get("engine", {}).get("engine", "")) if job else ""
