"""/jobs: submit, list, watch, cancel, clone. Knows nothing of how a job is run."""

from typing import Annotated, Any, Literal

from django.http import HttpRequest, JsonResponse
from ninja import Body, Header, Path, Query, Router, Schema
from ninja.responses import Status as Answer
from pydantic import Field

from portal.api.authentication import user_of
from portal.api.job_shapes import Events, JobOut, JobRow, LogLine, Point, job_row
from portal.api.paging import Limit, Offset, Page, page
from portal.api.parsing import storable
from portal.api.problems import BODY_CODES, CODES, FIND_CODES, NotFound
from portal.jobs import exports, selectors, services
from portal.jobs.models import Job
from portal.jobs.patches import patched
from portal.telemetry import cursor
from portal.telemetry import selectors as telemetry
from workers.contract.base import Slug
from workers.contract.export import ExportFormat
from workers.contract.spec import JobSpec

router = Router(tags=["jobs"])

JobId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Attempt = Annotated[int | None, Query(None, ge=1, le=2**31 - 1, description="This attempt only.")]
Key = Annotated[
    str | None,
    Header(
        None,
        alias="Idempotency-Key",
        max_length=120,
        description="A repeated request with the same key answers 200 with the first job.",
    ),
]


def find(id: int) -> Job:
    """The job. Raises NotFound."""
    try:
        return selectors.get_job(id)
    except Job.DoesNotExist:
        raise NotFound("id", "job", id) from None


@router.get("", response={200: Page[JobRow], **CODES}, summary="List jobs, newest first")
def list_jobs(
    request: HttpRequest,
    status: Annotated[
        Literal["", "live", "queued", "dispatched", "running", "cancelling", "succeeded", "failed", "cancelled"],
        Query("", description="A status, or 'live' for all that are not over."),
    ],
    kind: Annotated[Literal["", "finetune", "launch", "export", "quantize", "preflight", "load_test"], Query("")],
    search: Annotated[str, Query("", max_length=200, description="Part of the name or owner, or the number.")],
    limit: Limit,
    offset: Offset,
) -> dict[str, Any]:
    return page(selectors.jobs(status=status, kind=kind, search=search), limit, offset, job_row)


@router.post("", response={200: JobOut, 201: JobOut, **BODY_CODES}, summary="Submit a job")
def submit(request: HttpRequest, body: Annotated[JobSpec, Body()], idempotency_key: Key) -> Answer[Any]:
    """201 with the new job; 200 with the first one when the Idempotency-Key is repeated with the same body."""
    job, created = services.submit(user_of(request), body, idempotency_key=_key(idempotency_key))
    return Answer(201 if created else 200, telemetry.snapshot(job))


@router.get("/{id}", response={200: JobOut, **FIND_CODES}, summary="One job")
def get_job(request: HttpRequest, id: JobId) -> dict[str, Any]:
    return telemetry.snapshot(find(id))


@router.get("/{id}/events", response={200: Events, **FIND_CODES}, summary="Its events, in order")
def events(
    request: HttpRequest,
    id: JobId,
    since: Annotated[str, Query("", max_length=20, description="attempt.seq, e.g. 1.250: only newer ones.")],
    limit: Annotated[int, Query(1000, ge=1, le=5000)],
) -> dict[str, Any]:
    """Every recorded event, metrics and log lines among them. Progress is not recorded; it is part of the job."""
    place = cursor.parse(since)
    found = telemetry.events(find(id), since=place, limit=limit)
    last = cursor.Cursor(found[-1]["attempt"], found[-1]["seq"]) if found else place
    return {"events": found, "cursor": str(last)}


@router.get("/{id}/metrics", response={200: dict[str, list[Point]], **FIND_CODES}, summary="Its series")
def metrics(
    request: HttpRequest,
    id: JobId,
    names: Annotated[
        str, Query("", max_length=1000, description="Names with commas, e.g. loss,grad_norm; all if empty.")
    ],
    attempt: Attempt,
    max_points: Annotated[int, Query(2000, ge=4, le=2000, description="Of each series, downsampled by min–max.")],
) -> Any:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    found = telemetry.metrics(find(id), names=wanted or None, attempt=attempt, max_points=max_points)
    return JsonResponse(found)  # thousands of points of one shape: to check each again takes longer than to read them


@router.get("/{id}/logs", response={200: list[LogLine], **FIND_CODES}, summary="Its output")
def logs(
    request: HttpRequest,
    id: JobId,
    attempt: Attempt,
    since_seq: Annotated[int, Query(0, ge=0, le=2**31 - 1, description="Only lines with a higher seq.")],
    tail: Annotated[bool, Query(False, description="The last lines instead of the first.")],
    limit: Annotated[int, Query(500, ge=1, le=5000)],
) -> Any:
    return telemetry.log_lines(find(id), attempt=attempt, since_seq=since_seq, tail=tail, limit=limit)


@router.post("/{id}/cancel", response={200: JobOut, **FIND_CODES}, summary="Stop a job")
def cancel(request: HttpRequest, id: JobId) -> dict[str, Any]:
    """A job that is over is left as it is."""
    return telemetry.snapshot(services.cancel(find(id), user_of(request)))


@router.post(
    "/{id}/clone", response={200: JobOut, 201: JobOut, **BODY_CODES, 404: FIND_CODES[404]}, summary="Submit it again"
)
def clone(
    request: HttpRequest,
    id: JobId,
    body: Annotated[dict[str, Any], Body(description='Changed values of its spec, e.g. {"lora": {"rank": 8}}.')],
    idempotency_key: Key,
) -> Answer[Any]:
    """A new job of the same spec with the values of the body laid over it; null sets null."""
    storable(body)
    source = find(id)
    job, created = services.submit(
        user_of(request),
        patched(source.spec, body),
        idempotency_key=_key(idempotency_key),
        cloned_from=source,
    )
    return Answer(201 if created else 200, telemetry.snapshot(job))


class Export(Schema):
    """In which format, and under which name."""

    format: ExportFormat = "safetensors"
    result: Slug | None = Field(None, description="Name of the model that it makes; generated when absent.")


@router.post(
    "/{id}/export",
    response={200: JobOut, 201: JobOut, **BODY_CODES, 404: FIND_CODES[404]},
    summary="Export what a fine-tune made",
)
def export(request: HttpRequest, id: JobId, body: Export, idempotency_key: Key) -> Answer[Any]:
    """A job of kind export: the fine-tune's adapter and its base as one model, or the model that it made."""
    spec = exports.of_job(find(id), body.format, body.result)
    job, created = services.submit(user_of(request), spec, idempotency_key=_key(idempotency_key))
    return Answer(201 if created else 200, telemetry.snapshot(job))


def _key(header: str | None) -> str | None:
    return (header or "").strip() or None
