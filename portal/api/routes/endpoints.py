"""/endpoints: the launched models that answer now. They are asked at /v1/chat/completions, not here."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import Field

from portal.api.paging import Limit, Offset, Page, page
from portal.api.problems import CODES
from portal.serving.models import Endpoint
from portal.serving.selectors import JOB_PREFIX, live_endpoints

router = Router(tags=["endpoints"])


class EndpointOut(Schema):
    """A launched model."""

    model: str = Field(description="What to send as `model`; the newest of a name answers.")
    alias: str = Field(description="Names this very launch.")
    job: int
    owner: str
    node: str
    ready_at: datetime


def shape(endpoint: Endpoint) -> dict[str, Any]:
    """The EndpointOut of an endpoint. Its address stays inside: clients go through the gateway."""
    attempt = endpoint.attempt
    return {
        "model": endpoint.model_name,
        "alias": f"{JOB_PREFIX}{attempt.job_id}",
        "job": attempt.job_id,
        "owner": attempt.job.owner.get_username(),
        "node": attempt.node.name,
        "ready_at": endpoint.ready_at,
    }


@router.get("", response={200: Page[EndpointOut], **CODES}, summary="List launched models, newest first")
def list_endpoints(request: HttpRequest, limit: Limit, offset: Offset) -> dict[str, Any]:
    return page(live_endpoints(), limit, offset, shape)
