"""Ends attempts: frees their devices, and gives their job its end or its place in the queue again.

Exactly one end of an attempt wins, whoever says it and however often. Does not find out that an attempt is over
(telemetry, loop, reconcile), nor decides what a policy means (retries).
"""

from datetime import datetime, timedelta
from functools import partial

from django.db import transaction
from django.utils import timezone

from portal.jobs import bell, dispatch, fences
from portal.jobs.lifecycle import HOLDS_DEVICES, Status, final_status
from portal.jobs.models import Allocation, Attempt, Job, Member
from portal.jobs.retries import STEADY_S, in_a_row, retry_in_s
from portal.jobs.states import move, note
from workers.contract.names import token_of
from workers.contract.reasons import Reason
from workers.contract.spec import JOB_SPEC


def finish(job_id: int, number: int, reason: Reason, detail: str = "", now: datetime | None = None) -> bool:
    """End an attempt and free its devices; if it is the current one, its job ends too, or waits for the next try.

    Exactly one call wins. A job that is being stopped ends as cancelled, or for the reason it is stopped for, unless
    it had run to its end.
    """
    now = now or timezone.now()
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=job_id)
        attempt = Attempt.objects.get(job=job, number=number)
        if not Attempt.objects.filter(pk=attempt.pk, finished_at=None).update(
            finished_at=now, reason=reason, detail=detail
        ):
            return False
        Allocation.objects.filter(attempt=attempt, released_at=None).update(released_at=now)
        if attempt.nodes > 1:
            _dismiss(attempt, reason, now)
        transaction.on_commit(lambda: fences.withdraw(job_id, number, attempt.token))
        transaction.on_commit(bell.ring)  # for the next in the queue
        old = Status(job.status)
        if job.attempt_number != number or old not in HOLDS_DEVICES:
            return False
        if old != Status.CANCELLING:
            if (again_at := _again_at(job, reason, now)) is not None:
                return _queue_again(job, attempt, reason, detail, again_at, now)
            reason, detail = _of_a_loop(job, reason, detail)
        elif reason != Reason.COMPLETED:
            reason = Reason(job.reason or Reason.CANCELLED)
        new = final_status(reason.outcome)
        if not move(job, new, attempt=number, reason=reason, detail=detail, finished_at=now, phase="", eta_s=None):
            return False
        note(job, old, new, detail, reason)
    return True


def fail_queued(job_id: int, reason: Reason, detail: str) -> bool:
    """End a job that waits, because what it names is gone."""
    with transaction.atomic():
        job = Job.objects.get(pk=job_id)
        moved = move(
            job,
            Status.FAILED,
            expect=Status.QUEUED,
            reason=reason,
            detail=detail,
            finished_at=timezone.now(),
            waiting_for="",
            queue_position=None,
        )
        if moved:
            note(job, Status.QUEUED, Status.FAILED, detail, reason)
    return moved


def _dismiss(attempt: Attempt, reason: Reason, now: datetime) -> None:
    """Those of its nodes that still run it are told to end at once."""
    live = Member.objects.filter(attempt=attempt, finished_at=None)
    for rank, node in live.values_list("rank", "node__name"):
        command = (attempt.job_id, attempt.number, token_of(attempt.token, rank), node)
        transaction.on_commit(partial(dispatch.revoke, *command))
    live.update(finished_at=now, reason=reason)


def _again_at(job: Job, reason: Reason, now: datetime) -> datetime | None:
    """When the job is tried again; None when it isn't. The attempt that ended is in the database by now."""
    seconds = retry_in_s(JOB_SPEC.validate_python(job.spec).retry, reason, _tries(job))
    return None if seconds is None else now + timedelta(seconds=seconds)


def _tries(job: Job) -> int:
    """Its attempts that count; of a launch, which has no end of its own, only those since it last ran well."""
    tries = job.attempts.exclude(reason=Reason.PREEMPTED)
    if job.kind != "launch":
        return tries.count()
    ended = tries.order_by("-number").values_list("dispatched_at", "finished_at")
    return in_a_row([(finished - dispatched).total_seconds() for dispatched, finished in ended if finished])


def _of_a_loop(job: Job, reason: Reason, detail: str) -> tuple[Reason, str]:
    """A launch that would be tried again, had it not been so often, ends for that."""
    tries, policy = _tries(job), JOB_SPEC.validate_python(job.spec).retry
    if job.kind != "launch" or tries < 2 or retry_in_s(policy, reason, tries=0) is None:
        return reason, detail
    said = f"{tries} attempts in a row ended within {STEADY_S / 60:.0f} min of their start. The last: {reason.sentence}"
    return Reason.CRASH_LOOP, f"{said} {detail}".strip()


def _queue_again(job: Job, attempt: Attempt, reason: Reason, detail: str, again_at: datetime, now: datetime) -> bool:
    later = again_at > now
    ended = f"{reason.sentence[0].lower()}{reason.sentence[1:]}"
    moved = move(
        job,
        Status.QUEUED,
        attempt=attempt.number,
        not_before=again_at if later else None,
        queued_at=(job.queued_at or job.created_at) + (now - attempt.dispatched_at),
        waiting_for=f"Retries at {again_at:%H:%M:%S} UTC after: {ended}" if later else f"Goes on after: {ended}",
        queue_position=None,
        expected_start_at=again_at if later else None,
        phase="",
        progress_done=0,
        progress_total=0,
        eta_s=None,
    )
    if moved:
        note(job, Status(job.status), Status.QUEUED, detail or reason.sentence, reason)
    return moved
