"""/datasets: add by upload or by URI, list, preview. Rows are checked by the catalog, not here."""

from datetime import datetime
from typing import Annotated, Any, Literal

from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest
from ninja import Path, Router, Schema
from ninja.responses import Status
from pydantic import Field

from portal.api.authentication import user_of
from portal.api.paging import Limit, Offset, Page, page
from portal.api.parsing import read_json, storable, validated
from portal.api.problems import BODY_CODES, CODES, FIND_CODES, NotFound
from portal.catalog import dataset_services, selectors
from portal.catalog.models import Dataset
from workers.contract.base import Contract, Slug
from workers.contract.errors import Refused
from workers.contract.objectives import RowFormat

router = Router(tags=["datasets"])

Name = Annotated[Slug, Path()]


class _DatasetIn(Contract):
    name: Slug
    format: Literal["auto"] | RowFormat = "auto"
    test_fraction: float = Field(0.2, ge=0, lt=1, description="Held out for the test split without a test file.")
    seed: int = Field(42, ge=0, le=2**32 - 1, description="Of the split.")


class DatasetByURI(_DatasetIn):
    """A dataset that lies where the portal can read it."""

    uri: str = Field(
        min_length=1,
        max_length=500,
        description="Below an allowed root: JSONL, JSON, CSV or Parquet, or a folder of shards.",
    )
    test_uri: str = Field("", max_length=500)


class DatasetUpload(_DatasetIn):
    """A dataset in the request."""

    file: Annotated[str, Field(description="JSONL, JSON, CSV or Parquet.", json_schema_extra={"format": "binary"})]
    test_file: Annotated[str, Field("", json_schema_extra={"format": "binary"})]


class DatasetOut(Schema):
    """A validated dataset, split once."""

    name: str
    format: RowFormat
    source: str
    sha256: str = Field(description="Over the canonical rows of both splits, or names and sizes of shards.")
    train_rows: int = Field(description="About, where there are shards.")
    test_rows: int
    shard_count: int = Field(description="Files of a training split that stays where it is; 0: it is in the store.")
    disk_bytes: int = Field(description="Of all shards; 0 without any.")
    labels: list[str]
    token_histogram: dict[str, Any] = Field(description="Edges and counts, tokens per row; empty without a tokenizer.")
    created_at: datetime


class Preview(Schema):
    """The first rows of the training split."""

    name: str
    format: RowFormat
    rows: list[dict[str, Any]]


def find(name: str) -> Dataset:
    """The dataset. Raises NotFound."""
    try:
        return selectors.get_dataset(name)
    except Dataset.DoesNotExist:
        raise NotFound("name", "dataset", name) from None


@router.get("", response={200: Page[DatasetOut], **CODES}, summary="List datasets")
def list_datasets(request: HttpRequest, limit: Limit, offset: Offset) -> dict[str, Any]:
    return page(selectors.datasets(), limit, offset)


@router.post(
    "",
    response={201: DatasetOut, **BODY_CODES},
    summary="Add a dataset, as multipart upload or by URI",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": DatasetByURI.model_json_schema()},
                "multipart/form-data": {"schema": DatasetUpload.model_json_schema()},
            },
        }
    },
)
def add_dataset(request: HttpRequest) -> Status[Any]:
    """Every row is checked; up to 20 bad ones are named by number, each with its reason. Of a folder of shards a sample
    of the rows is checked; it stays where it is."""
    user = user_of(request)
    if request.content_type == "multipart/form-data":
        fields = request.POST.dict()
        storable(fields)
        file, test_file = _file(request, "file"), _file(request, "test_file")
        upload = validated(DatasetUpload, {**fields, "file": "", "test_file": ""})
        if file is None:
            raise Refused.at("file", None, "file: send the dataset as the file of this field, or its URI as JSON.")
        dataset = dataset_services.add_dataset(user, file=file, test_file=test_file, **_common(upload))
    else:
        by_uri = validated(DatasetByURI, read_json(request))
        dataset = dataset_services.add_dataset(user, uri=by_uri.uri, test_uri=by_uri.test_uri, **_common(by_uri))
    return Status(201, dataset)


@router.get("/{name}", response={200: DatasetOut, **FIND_CODES}, summary="One dataset")
def get_dataset(request: HttpRequest, name: Name) -> Dataset:
    return find(name)


@router.get("/{name}/preview", response={200: Preview, **FIND_CODES}, summary="Its first rows")
def preview(request: HttpRequest, name: Name) -> dict[str, Any]:
    dataset = find(name)
    return {"name": dataset.name, "format": dataset.format, "rows": dataset.preview}


def _common(body: _DatasetIn) -> dict[str, Any]:
    return {"name": body.name, "format": body.format, "test_fraction": body.test_fraction, "seed": body.seed}


def _file(request: HttpRequest, field: str) -> "UploadedFile[bytes] | None":
    found = request.FILES.get(field)
    return found if isinstance(found, UploadedFile) else None
