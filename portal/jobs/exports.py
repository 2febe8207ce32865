"""What of a job's result can be exported, as the spec of an export, which is still to be submitted. Writes nothing."""

from portal.catalog.models import Adapter, ModelProfile
from portal.jobs.lifecycle import FINAL, Status
from portal.jobs.models import Job
from workers.contract.errors import Refused
from workers.contract.export import ExportFormat, ExportSpec


def of_job(job: Job, format: ExportFormat, result: str | None = None) -> ExportSpec:
    """An export of what a fine-tune made: its adapter with the base, or its model. Raises Refused at `id`."""
    if job.kind != "finetune":
        raise Refused.at(
            "id", job.pk, f"id: job #{job.pk} is of kind {job.kind}, which trains nothing; use a fine-tune."
        )
    if Status(job.status) not in FINAL:
        raise Refused.at("id", job.pk, f"id: job #{job.pk} is {job.status}; export its result once it has succeeded.")
    if Status(job.status) != Status.SUCCEEDED:
        raise Refused.at(
            "id", job.pk, f"id: job #{job.pk} ended as {job.status}, so it has no result; clone it to try again."
        )
    if adapter := Adapter.objects.select_related("base_model").filter(job_number=job.pk).first():
        return ExportSpec(model=adapter.base_model.name, adapter=adapter.name, format=format, result=result)
    if model := ModelProfile.objects.filter(job_number=job.pk).first():
        return ExportSpec(model=model.name, format=format, result=result)
    raise Refused.at("id", job.pk, f"id: what job #{job.pk} made is not in the catalog any more; run it again.")
