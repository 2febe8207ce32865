"""What a running attempt says of itself, written to its job: started, phase, progress, artifacts, checkpoints.

A stale attempt's word changes nothing. Does not end anything (ending).
"""

from typing import Any

from django.db import transaction
from django.utils import timezone

from portal.catalog.models import Adapter, ModelProfile
from portal.catalog.services import register_adapter, register_model
from portal.jobs.lifecycle import HOLDS_DEVICES, Status
from portal.jobs.models import Attempt, Job
from portal.jobs.notify import job_changed
from portal.jobs.states import move, note
from workers.contract.export import GGUF_FILE, ExportSpec
from workers.contract.finetune import FinetuneSpec
from workers.contract.order import ResumeInput
from workers.contract.quantize import QuantizeReport, QuantizeSpec
from workers.contract.spec import JOB_SPEC


def mark_started(job_id: int, number: int, resumed_from: int | None = None) -> bool:
    """The node has started the attempt, going on from that step. False when it is stale or already past that."""
    with transaction.atomic():
        job = Job.objects.get(pk=job_id)
        now = timezone.now()
        attempt = Attempt.objects.filter(job=job, number=number, started_at=None, finished_at=None)
        attempt.update(started_at=now, resumed_step=resumed_from)
        started = job.started_at or now
        if not move(job, Status.RUNNING, attempt=number, expect=Status.DISPATCHED, started_at=started):
            return False
        note(job, Status.DISPATCHED, Status.RUNNING, "The node started it.")
    return True


def report(job_id: int, number: int, **shown: Any) -> None:
    """Store the phase or progress, also of what comes before it runs; a stale attempt's word changes nothing."""
    changed = Job.objects.filter(pk=job_id, attempt_number=number, status__in=HOLDS_DEVICES).update(**shown)
    if changed and "phase" in shown:
        job_changed(job_id)


def artifact_stored(
    job_id: int,
    number: int,
    *,
    kind: str,
    uri: str,
    size: int,
    sha256: str | None,
    measured: QuantizeReport | None = None,
) -> None:
    """An artifact of the run reached the store; an adapter or a model joins the catalog with its lineage, and a
    quantized model with what was `measured` of it."""
    job = Job.objects.get(pk=job_id)
    if job.attempt_number != number:
        return
    stored: dict[str, Any] = {"uri": uri, "sha256": sha256 or "", "disk_bytes": size, "job_number": job_id}
    if job.kind == "finetune" and kind in ("adapter", "model"):
        spec = FinetuneSpec.model_validate(job.spec)
        stored |= {"name": spec.adapter or f"{spec.model[:40]}-job-{job_id}", "dataset": spec.dataset}
        if kind == "adapter":
            register_adapter(model=spec.model, **stored)
        else:
            register_model(model=spec.model, **stored)
    is_gguf = uri.endswith(f"/{GGUF_FILE}")
    if job.kind in ("export", "quantize") and (kind == "model" or is_gguf):
        written = JOB_SPEC.validate_python(job.spec)
        assert isinstance(written, ExportSpec | QuantizeSpec)
        adapter = Adapter.objects.select_related("dataset").filter(name=written.adapter or "").first()
        register_model(
            name=written.made(job_id),
            model=written.model,
            dataset=adapter.dataset.name if adapter and adapter.dataset else "",
            source=ModelProfile.Source.GGUF if is_gguf else ModelProfile.Source.FOLDER,
            quantized=written.stored if isinstance(written, QuantizeSpec) else None,
            measured=measured,
            **stored,
        )


def checkpoint_stored(attempt: Attempt, *, step: int, uri: str, sha256: str | None) -> None:
    """A checkpoint is whole in the store; a later attempt goes on from the newest. An older one changes nothing.

    A late word of an attempt that was given up counts as well: a run goes the same way from any of its checkpoints.
    """
    with transaction.atomic():
        held = Attempt.objects.select_for_update().only("checkpoint").get(pk=attempt.pk)
        if held.checkpoint is None or held.checkpoint["step"] < step:
            held.checkpoint = ResumeInput(uri=uri, step=step, sha256=sha256).model_dump(mode="json")
            held.save(update_fields=["checkpoint"])


def announce(job_id: int) -> None:
    """Tell viewers that something of the job other than its status changed."""
    job_changed(job_id)
