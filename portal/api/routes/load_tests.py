"""/load-tests: what load tests found of launches, side by side. One is submitted at /jobs, with kind load_test."""

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import Field

from portal.api.paging import Limit, Offset, Page, page
from portal.api.problems import CODES
from portal.serving import selectors
from portal.serving.models import LoadTest
from workers.contract.base import Slug
from workers.contract.load_report import LoadReport, LoadStep

router = Router(tags=["load tests"])


class LoadTestOut(Schema):
    """One load test beside what its launch was made of."""

    job: int
    launch: int
    model: str = Field(description="The base model.")
    served_as: str = Field(description="The model's or the adapter's name.")
    engine: str
    quantization: str
    devices: str = Field(description="Of the launch, in words.")
    at: datetime
    best: LoadStep | None = Field(description="The step of the highest rate that met the target; null where none did.")
    report: LoadReport


def shape(test: LoadTest) -> dict[str, Any]:
    """The LoadTestOut of a load test."""
    found = test.found
    columns = ("model", "served_as", "engine", "quantization", "devices", "at")
    return {
        **{column: getattr(test, column) for column in columns},
        "job": test.attempt.job_id,
        "launch": test.launch_id,
        "best": found.best,
        "report": found,
    }


@router.get("", response={200: Page[LoadTestOut], **CODES}, summary="List load tests, newest first")
def list_load_tests(
    request: HttpRequest,
    launch: Annotated[int | None, Query(None, ge=1, le=2**63 - 1, description="Of this launch and its replicas.")],
    model: Annotated[Slug | None, Query(None, description="Of this base model, or of what is served by this name.")],
    limit: Limit,
    offset: Offset,
) -> dict[str, Any]:
    return page(selectors.load_tests(launch=launch, model=model or ""), limit, offset, shape)
