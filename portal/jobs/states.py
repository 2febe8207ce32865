"""The compare-and-set that every change of a job's status goes through, and the note it leaves on the timeline.

Only on (id, old status, attempt): zero rows means someone else won. Does not know why a status changes.
"""

from typing import Any

from portal.jobs.lifecycle import Status, sources
from portal.jobs.models import Job, Transition
from portal.jobs.notify import job_changed, jobs_changed


def move(
    job: Job,
    new: Status,
    *,
    attempt: int | None = None,
    expect: Status | None = None,
    set_attempt: int | None = None,
    **changes: Any,
) -> bool:
    """Only from `expect` (else any status the table allows) and only for `attempt`, if given."""
    rows = Job.objects.filter(pk=job.pk, status__in=[expect] if expect else sources(new))
    if attempt is not None:
        rows = rows.filter(attempt_number=attempt)
    if set_attempt is not None:
        rows = rows.filter(attempt_number=job.attempt_number)
        changes["attempt_number"] = set_attempt
    if not rows.update(status=new, **changes):
        return False
    jobs_changed([job.pk, job.replica_of_id] if job.replica_of_id else [job.pk])
    return True


def note(job: Job, old: Status, new: Status, text: str, reason: str = "") -> None:
    """A change on the job's timeline."""
    number = Job.objects.values_list("attempt_number", flat=True).get(pk=job.pk)
    Transition.objects.create(job=job, attempt_number=number, old=old, new=new, note=text[:400], reason=reason)


def remark(job_id: int, text: str) -> None:
    """A word on the job's timeline that changes no status: what was set right, and how."""
    job = Job.objects.only("status", "attempt_number").get(pk=job_id)
    Transition.objects.create(
        job=job, attempt_number=job.attempt_number, old=job.status, new=job.status, note=text[:400]
    )
    job_changed(job_id)
