"""/models: the model profiles. Knows nothing of jobs."""

from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import HttpRequest
from ninja import Body, Path, Router, Schema
from ninja.responses import Status
from pydantic import Field

from portal.api.authentication import user_of
from portal.api.paging import Limit, Offset, Page, page
from portal.api.problems import BODY_CODES, CODES, FIND_CODES, NotFound
from portal.catalog import selectors, services
from portal.catalog.models import ModelProfile
from workers.contract.base import Contract, Slug
from workers.contract.quantize import QuantizeReport

router = Router(tags=["models"])

Name = Annotated[Slug, Path()]


class ModelIn(Contract):
    """A model to register; what it is comes from its own config."""

    name: Slug
    uri: str = Field(min_length=1, max_length=500, description="store://, file:// or s3:// URI, a path, or org/name.")
    source: Literal["safetensors", "gguf", "hub"] = "safetensors"
    revision: str = Field("", max_length=64, description="Hub revision; a commit is exact.")
    licence: str = Field("", max_length=80)


class ModelOut(Schema):
    """A model as its own config describes it; null where the config doesn't say."""

    name: str
    source: Literal["safetensors", "gguf", "hub"]
    uri: str
    revision: str
    architecture: str
    layers: int | None
    hidden_size: int | None
    heads: int | None
    kv_heads: int | None
    intermediate_size: int | None
    vocab_size: int | None
    context_length: int | None = Field(description="Tokens.")
    experts: int | None
    tied_embeddings: bool
    parameters: int | None
    disk_bytes: int | None
    dtype: str
    licence: str
    sha256: str
    remote_code_approved: bool
    base_model: str | None = Field(None, alias="base_model.name", description="The model it was made from, by a job.")
    job: int | None = Field(None, alias="job_number", description="The job that made it.")
    quantized: QuantizeReport | None = Field(None, alias="measured", description="What its quantize job measured.")
    created_at: datetime


@router.get("", response={200: Page[ModelOut], **CODES}, summary="List models")
def list_models(request: HttpRequest, limit: Limit, offset: Offset) -> dict[str, Any]:
    return page(selectors.models(), limit, offset)


@router.post("", response={201: ModelOut, **BODY_CODES}, summary="Register a model")
def add_model(request: HttpRequest, body: Annotated[ModelIn, Body()]) -> Status[Any]:
    model = services.add_model(
        user_of(request),
        name=body.name,
        uri=body.uri,
        source=body.source,
        revision=body.revision,
        licence=body.licence,
    )
    return Status(201, model)


@router.get("/{name}", response={200: ModelOut, **FIND_CODES}, summary="One model")
def get_model(request: HttpRequest, name: Name) -> ModelProfile:
    try:
        return selectors.get_model(name)
    except ModelProfile.DoesNotExist:
        raise NotFound("name", "model", name) from None
