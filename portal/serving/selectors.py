"""Reads which launched models answer now. Writes nothing; calls nobody."""

from django.db.models import F, QuerySet

from portal.jobs.lifecycle import Status
from portal.jobs.models import Job
from portal.serving.models import Endpoint

JOB_PREFIX = "job-"


def live_endpoints() -> QuerySet[Endpoint]:
    """Endpoints of running jobs' current attempts, newest first, with job, owner and node."""
    return (
        Endpoint.objects.select_related("attempt__job__owner", "attempt__node")
        .filter(attempt__job__status=Status.RUNNING, attempt__number=F("attempt__job__attempt_number"))
        .order_by("-ready_at", "-pk")
    )


def find_endpoint(model: str) -> Endpoint | None:
    """The live endpoint that `model` names: a model or adapter (newest wins), or 'job-<id>'."""
    named = live_endpoints().filter(model_name=model).first()
    if named is not None:
        return named
    number = model.removeprefix(JOB_PREFIX)
    if number == model or not number.isdecimal() or len(number) > 18:
        return None
    return live_endpoints().filter(attempt__job_id=int(number)).first()


def live_endpoint(job: Job) -> Endpoint | None:
    """Where this very launch answers; None while it doesn't."""
    return live_endpoints().filter(attempt__job=job).first()


def request_name(endpoint: Endpoint) -> str:
    """What to put into a request's `model`: the model's name, or 'job-<id>' where a newer launch has that name."""
    newest = find_endpoint(endpoint.model_name)
    return endpoint.model_name if newest == endpoint else f"{JOB_PREFIX}{endpoint.attempt.job_id}"
