"""The only writer of job status: submit, cancel, preempt here; claims of devices in claims, starting in progress,
ending in ending.

Every change is a compare-and-set on (id, old status, attempt) of states. Commands to nodes and messages to viewers go
out after the commit. Does not decide who starts (scheduler) nor store events (telemetry).
"""

from functools import partial
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone
from pydantic import ValidationError

from portal.accounts.services import audit
from portal.jobs import bell, dispatch, load_tests, members, presence, states
from portal.jobs.checks import look_up
from portal.jobs.claims import allocate, allocate_all
from portal.jobs.ending import fail_queued, finish
from portal.jobs.lifecycle import FINAL, LIVE, Status
from portal.jobs.models import Attempt, Job, Transition
from portal.jobs.notify import job_changed
from portal.jobs.progress import announce, artifact_stored, checkpoint_stored, mark_started, report
from portal.jobs.states import remark
from workers.contract.errors import Refused, from_pydantic
from workers.contract.export import ExportSpec
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec
from workers.contract.load_test import LoadTestSpec
from workers.contract.quantize import QuantizeSpec
from workers.contract.reasons import Reason
from workers.contract.spec import JOB_SPEC, PreflightSpec, Spec

__all__ = [
    "allocate", "allocate_all", "announce", "artifact_stored", "cancel", "checkpoint_stored", "fail_queued", "finish",
    "is_final", "mark_started", "parse", "preempt", "remark", "report", "submit",
]  # fmt: skip


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
    parsed = _settled(parse(spec))
    if idempotency_key and (first := Job.objects.filter(owner=user, idempotency_key=idempotency_key).first()):
        return _same(first, parsed, idempotency_key), False
    presence.check(look_up(parsed))
    _refuse_a_second(parsed)
    try:
        with transaction.atomic():
            job = _create(user, parsed, idempotency_key=idempotency_key or None, cloned_from=cloned_from)
            for copy in _further_copies(parsed):
                _create(user, copy, replica_of=job)
            transaction.on_commit(bell.ring)
            job_changed(job.pk)
    except IntegrityError:
        # The same key, at the same moment: the other request won.
        first = Job.objects.get(owner=user, idempotency_key=idempotency_key)
        return _same(first, parsed, idempotency_key or ""), False
    return job, True


def _create(user: User, spec: Spec, **columns: Any) -> Job:
    """One job that waits, and the first words of its history."""
    job = Job.objects.create(
        name=spec.name or _name(spec),
        kind=spec.kind,
        spec=spec.model_dump(mode="json"),
        owner=user,
        waiting_for="Waits for the scheduler.",
        **columns,
    )
    Transition.objects.create(job=job, new=Status.QUEUED, note=f"Submitted by {user.get_username()}.")
    audit(user, "submit job", f"job #{job.pk}", job.name)
    return job


def _further_copies(spec: Spec) -> list[LaunchSpec]:
    """Of a launch with replicas all but the first, each named by its place."""
    if not isinstance(spec, LaunchSpec):
        return []
    name = (spec.name or _name(spec))[:100]
    return [
        spec.model_copy(update={"replicas": 1, "name": f"{name} ({place} of {spec.replicas})"})
        for place in range(2, spec.replicas + 1)
    ]


def _settled(spec: Spec) -> Spec:
    return load_tests.settled(spec) if isinstance(spec, LoadTestSpec) else spec


def _refuse_a_second(spec: Spec) -> None:
    """Two load tests of one launch at a time would measure each other."""
    if isinstance(spec, LoadTestSpec) and (other := load_tests.under_way(spec.launch)):
        raise Refused.at(
            "launch",
            spec.launch,
            f"launch: load test #{other.pk} of launch #{spec.launch} has not ended; wait for it, or stop it first.",
        )


def parse(spec: dict[str, Any] | Spec) -> Spec:
    """Validate a spec by the contract. Raises Refused."""
    if not isinstance(spec, dict):
        return spec
    try:
        return JOB_SPEC.validate_python(spec)
    except ValidationError as error:
        raise Refused(from_pydantic(error)) from None


def cancel(job: Job, user: User | None, note: str = "", reason: Reason = Reason.CANCELLED) -> Job:
    """Stop a job: at once when it waits, through its node when it has one. A final job is left as it is.

    With it go the further copies of a launch. `reason`: what it ends for.
    """
    for replica in job.replicas.filter(status__in=LIVE):
        cancel(replica, user, note, reason)
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=job.pk)
        by = note or (f"Stopped by {user.get_username()}." if user else "Stopped.")
        old = Status(job.status)
        if old == Status.QUEUED:
            if states.move(
                job,
                Status.CANCELLED,
                expect=old,
                reason=reason,
                detail=by,
                finished_at=timezone.now(),
                waiting_for="",
                queue_position=None,
            ):
                states.note(job, old, Status.CANCELLED, by, reason)
        elif old in (Status.DISPATCHED, Status.RUNNING) and states.move(
            job,
            Status.CANCELLING,
            attempt=job.attempt_number,
            expect=old,
            reason="" if reason is Reason.CANCELLED else reason,
        ):
            states.note(job, old, Status.CANCELLING, by)
            attempt = job.attempts.select_related("node").get(number=job.attempt_number)
            for node in members.nodes_of(attempt):
                transaction.on_commit(partial(dispatch.cancel, job.pk, attempt.number, node))
        if user:
            audit(user, "cancel job", f"job #{job.pk}", job.name)
    job.refresh_from_db()
    return job


def preempt(job_id: int, why: str) -> bool:
    """Ask a running attempt to make room: it checkpoints, ends as preempted, and its job waits again.

    False when it isn't running any more, or was asked before.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk=job_id)
        if Status(job.status) != Status.RUNNING:
            return False
        attempt = job.attempts.select_related("node").get(number=job.attempt_number)
        if attempt.preempt_asked_at is not None:
            return False
        Attempt.objects.filter(pk=attempt.pk).update(preempt_asked_at=timezone.now())
        remark(job_id, why)
        for node in members.nodes_of(attempt):
            transaction.on_commit(partial(dispatch.preempt, job_id, attempt.number, node))
    return True


def _name(spec: Spec) -> str:
    if isinstance(spec, FinetuneSpec):
        return f"Fine-tune {spec.model} on {spec.dataset}"
    if isinstance(spec, PreflightSpec) and spec.sweep_processes:
        return f"All-reduce sweep of {spec.resources.node}"
    if isinstance(spec, PreflightSpec):
        return f"Preflight of {spec.resources.node}" + (f" for {spec.model}" if spec.model else "")
    if isinstance(spec, ExportSpec):
        return f"Export {spec.adapter or spec.model} as {spec.format}"
    if isinstance(spec, QuantizeSpec):
        return f"Quantize {spec.adapter or spec.model}: {spec.stored.words}"
    if isinstance(spec, LoadTestSpec):
        return f"Load test of launch #{spec.launch}"
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
