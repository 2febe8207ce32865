"""/adapters: what fine-tunes made. Knows nothing of how."""

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Path, Router, Schema
from pydantic import Field

from portal.api.paging import Limit, Offset, Page, page
from portal.api.problems import CODES, FIND_CODES, NotFound
from portal.catalog import selectors
from portal.catalog.models import Adapter
from workers.contract.base import Slug

router = Router(tags=["adapters"])


class AdapterOut(Schema):
    """A LoRA adapter and where it came from."""

    name: str
    model: str
    dataset: str | None = Field(description="null when the dataset is gone.")
    job: int | None
    uri: str
    sha256: str
    disk_bytes: int
    created_at: datetime


def shape(adapter: Adapter) -> dict[str, Any]:
    """The AdapterOut of an adapter."""
    columns = ("name", "uri", "sha256", "disk_bytes", "created_at")
    return {
        **{column: getattr(adapter, column) for column in columns},
        "model": adapter.base_model.name,
        "dataset": adapter.dataset.name if adapter.dataset else None,
        "job": adapter.job_number,
    }


@router.get("", response={200: Page[AdapterOut], **CODES}, summary="List adapters, newest first")
def list_adapters(request: HttpRequest, limit: Limit, offset: Offset) -> dict[str, Any]:
    return page(selectors.adapters(), limit, offset, shape)


@router.get("/{name}", response={200: AdapterOut, **FIND_CODES}, summary="One adapter")
def get_adapter(request: HttpRequest, name: Annotated[Slug, Path()]) -> dict[str, Any]:
    try:
        return shape(selectors.get_adapter(name))
    except Adapter.DoesNotExist:
        raise NotFound("name", "adapter", name) from None
