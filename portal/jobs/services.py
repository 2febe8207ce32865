"""The only writer of job status: submit, allocate, start, cancel, finish.

Every change is a compare-and-set on (id, old status, attempt); zero rows means someone else won. Commands to nodes
and messages to viewers go out after the commit. Does not decide who starts (scheduler) nor store events (telemetry).
"""

from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone
from pydantic import ValidationError

from portal.accounts.services import audit
from portal.catalog.services import register_adapter
from portal.jobs import dispatch, measurements, orders
from portal.jobs.checks import look_up
from portal.jobs.lifecycle import FINAL, Status, final_status, sources
from portal.jobs.models import Allocation, Attempt, Job, Transition
from portal.jobs.notify import job_changed
from portal.jobs.scheduler import Placement
from workers.contract.errors import Refused, from_pydantic
from workers.contract.reasons import Reason
from workers.contract.spec import JOB_SPEC, FinetuneSpec, LaunchSpec, PreflightSpec

Spec = FinetuneSpec | LaunchSpec | PreflightSpec


def submit(
    user: User,
    spec: dict[str, Any] | Spec,
    *,
    idempotency_key: str | None = None,
    cloned_from: Job | None = None,
) -> tuple[Job, bool]:
    """Put a job in the queue. Returns it and whether it is new (False: this user's key had made it before).

    Raises Refused with a FieldError for each thing wrong; then nothing is written.
    """
    parsed = parse(spec)
    if idempotency_key and (first := Job.objects.filter(owner=user, idempotency_key=idempotency_key).first()):
        return _same(first, parsed, idempotency_key), False
    look_up(parsed)
    try:
        with transaction.atomic():
            job = Job.objects.create(
                name=parsed.name or _name(parsed),
                kind=parsed.kind,
                spec=parsed.model_dump(mode="json"),
                owner=user,
                idempotency_key=idempotency_key or None,
                cloned_from=cloned_from,
                waiting_for="Waits for the scheduler.",
            )
            Transition.objects.create(job=job, new=Status.QUEUED, note=f"Submitted by {user.get_username()}.")
            audit(user, "submit job", f"job #{job.pk}", job.name)
            job_changed(job.pk)
    except IntegrityError:
        # The same key, at the same moment: the other request won.
        first = Job.objects.get(owner=user, idempotency_key=idempotency_key)
        return _same(first, parsed, idempotency_key or ""), False
    return job, True


def parse(spec: dict[str, Any] | Spec) -> Spec:
    """Validate a spec by the contract. Raises Refused."""
    if not isinstance(spec, dict):
        return spec
    try:
        return JOB_SPEC.validate_python(spec)
    except ValidationError as error:
        raise Refused(from_pydantic(error)) from None


def allocate(placement: Placement) -> bool:
    """Give the placement's devices to its job's next attempt and dispatch it on commit.

    Returns False when the job or a device was taken meanwhile; then nothing has changed.
    """
    try:
        with transaction.atomic():
            job = Job.objects.select_for_update().get(pk=placement.job)
            number = job.attempt_number + 1
            if not _move(
                job, Status.DISPATCHED, set_attempt=number, waiting_for="", queue_position=None, expected_start_at=None
            ):
                return False
            order = orders.build(job, number, placement.node, placement.devices)
            attempt = Attempt.objects.create(
                job=job,
                number=number,
                node_id=placement.node,
                order=order.model_dump(mode="json", exclude={"serve_token"}),
            )
            Allocation.objects.bulk_create(
                Allocation(attempt=attempt, accelerator_id=device) for device in placement.devices
            )
            _note(job, Status.QUEUED, Status.DISPATCHED, f"Sent to node {order.node}.")
            transaction.on_commit(lambda: dispatch.begin(order))
    except IntegrityError:
        return False
    except Refused as refused:
        fail_queued(placement.job, Reason.INVALID_INPUT, str(refused))
        return False
    measurements.predict(attempt)
    return True


def fail_queued(job_id: int, reason: Reason, detail: str) -> bool:
    """End a job that never left the queue, because what it names is gone."""
    with transaction.atomic():
        job = Job.objects.get(pk=job_id)
        moved = _move(
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
            _note(job, Status.QUEUED, Status.FAILED, detail, reason)
    return moved


def mark_started(job_id: int, number: int) -> bool:
    """The node has started the attempt. False when the attempt is stale or already past that."""
    with transaction.atomic():
        job = Job.objects.get(pk=job_id)
        now = timezone.now()
        Attempt.objects.filter(job=job, number=number, started_at=None).update(started_at=now)
        if not _move(job, Status.RUNNING, attempt=number, expect=Status.DISPATCHED, started_at=now):
            return False
        _note(job, Status.DISPATCHED, Status.RUNNING, "The node started it.")
    return True


def report(job_id: int, number: int, **shown: Any) -> None:
    """Store the current phase or progress; a stale attempt's word changes nothing."""
    changed = Job.objects.filter(
        pk=job_id, attempt_number=number, status__in=[Status.RUNNING, Status.CANCELLING]
    ).update(**shown)
    if changed and "phase" in shown:
        job_changed(job_id)


def cancel(job: Job, user: User | None, note: str = "") -> Job:
    """Stop a job: at once when it waits, through its node when it has one. A final job is left as it is."""
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=job.pk)
        by = note or (f"Stopped by {user.get_username()}." if user else "Stopped.")
        old = Status(job.status)
        if old == Status.QUEUED:
            if _move(
                job,
                Status.CANCELLED,
                expect=old,
                reason=Reason.CANCELLED,
                detail=by,
                finished_at=timezone.now(),
                waiting_for="",
                queue_position=None,
            ):
                _note(job, old, Status.CANCELLED, by, Reason.CANCELLED)
        elif old in (Status.DISPATCHED, Status.RUNNING) and _move(
            job, Status.CANCELLING, attempt=job.attempt_number, expect=old
        ):
            _note(job, old, Status.CANCELLING, by)
            node = job.attempts.select_related("node").get(number=job.attempt_number).node.name
            command = (job.pk, job.attempt_number, node)
            transaction.on_commit(lambda: dispatch.cancel(*command))
        if user:
            audit(user, "cancel job", f"job #{job.pk}", job.name)
    job.refresh_from_db()
    return job


def finish(job_id: int, number: int, reason: Reason, detail: str = "") -> bool:
    """End an attempt and, if it is the current one, its job; free its devices. Exactly one call wins."""
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=job_id)
        now = timezone.now()
        attempt = Attempt.objects.select_related("node").get(job=job, number=number)
        if not Attempt.objects.filter(pk=attempt.pk, finished_at=None).update(
            finished_at=now, reason=reason, detail=detail
        ):
            return False
        Allocation.objects.filter(attempt=attempt, released_at=None).update(released_at=now)
        old = Status(job.status)
        if old == Status.CANCELLING and reason != Reason.COMPLETED:
            reason = Reason.CANCELLED
        new = final_status(reason.outcome)
        if not _move(job, new, attempt=number, reason=reason, detail=detail, finished_at=now, phase="", eta_s=None):
            return False
        _note(job, old, new, detail[:400], reason)
    return True


def artifact_stored(job_id: int, number: int, *, kind: str, uri: str, size: int, sha256: str | None) -> None:
    """An artifact of the run reached the store; an adapter joins the catalog with its lineage."""
    job = Job.objects.get(pk=job_id)
    if kind == "adapter" and job.kind == "finetune" and job.attempt_number == number:
        spec = FinetuneSpec.model_validate(job.spec)
        register_adapter(
            name=spec.adapter or f"{spec.model[:40]}-job-{job_id}",
            model=spec.model,
            dataset=spec.dataset,
            uri=uri,
            sha256=sha256 or "",
            disk_bytes=size,
            job_number=job_id,
        )


def wait(job_id: int, position: int, reason: str, expected_start_at: Any) -> None:
    """Store why a job waits and where it stands; only if that changed."""
    queued = Job.objects.filter(pk=job_id, status=Status.QUEUED)
    if queued.exclude(waiting_for=reason[:400], queue_position=position).update(
        waiting_for=reason[:400], queue_position=position, expected_start_at=expected_start_at
    ):
        job_changed(job_id)


def _move(
    job: Job,
    new: Status,
    *,
    attempt: int | None = None,
    expect: Status | None = None,
    set_attempt: int | None = None,
    **changes: Any,
) -> bool:
    """Compare-and-set: only from `expect` (else any status the table allows) and only for `attempt`, if given."""
    rows = Job.objects.filter(pk=job.pk, status__in=[expect] if expect else sources(new))
    if attempt is not None:
        rows = rows.filter(attempt_number=attempt)
    if set_attempt is not None:
        rows = rows.filter(attempt_number=job.attempt_number)
        changes["attempt_number"] = set_attempt
    if not rows.update(status=new, **changes):
        return False
    job_changed(job.pk)
    return True


def _note(job: Job, old: Status, new: Status, note: str, reason: str = "") -> None:
    number = Job.objects.values_list("attempt_number", flat=True).get(pk=job.pk)
    Transition.objects.create(job=job, attempt_number=number, old=old, new=new, note=note[:400], reason=reason)


def _name(spec: Spec) -> str:
    if isinstance(spec, FinetuneSpec):
        return f"Fine-tune {spec.model} on {spec.dataset}"
    if isinstance(spec, PreflightSpec):
        return f"Preflight of {spec.resources.node}" + (f" for {spec.model}" if spec.model else "")
    return f"Launch {spec.adapter or spec.model}"


def _same(job: Job, spec: Spec, key: str) -> Job:
    """The job that `key` made, if it was made of the same spec. Raises Refused if not."""
    if job.spec != spec.model_dump(mode="json"):
        raise Refused.at(
            "Idempotency-Key",
            key,
            f"Idempotency-Key: {key!r} was used for job #{job.pk} with other settings; send a new key for a new job.",
        )
    return job


def is_final(job: Job) -> bool:
    """Whether nothing more will happen to the job."""
    return Status(job.status) in FINAL


def announce(job_id: int) -> None:
    """Tell viewers that something of the job other than its status changed."""
    job_changed(job_id)
