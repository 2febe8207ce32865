"""/jobs/{id}/artifacts: what a job made, and the download of one file. Knows nothing of where the store is."""

from collections.abc import AsyncIterator
from typing import IO, Annotated, Any
from urllib.parse import quote, urlencode

from asgiref.sync import sync_to_async
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.http import content_disposition_header
from ninja import Path, Query, Router

from portal.api.job_shapes import ArtifactFiles
from portal.api.problems import STORE_CODES, NotFound, Unavailable
from portal.api.routes.jobs import JobId, find
from portal.catalog.artifacts import Unreachable, list_artifact, open_artifact
from portal.telemetry import selectors as telemetry
from workers.contract.names import UnsafeURI

router = Router(tags=["jobs"])
PIECE = 2**20


@router.get("/{id}/artifacts", response={200: list[ArtifactFiles], **STORE_CODES}, summary="What it made")
def list_artifacts(request: HttpRequest, id: JobId) -> list[dict[str, Any]]:
    return [
        {
            **artifact,
            "files": [
                {"name": name, "bytes": size, "href": _href(id, artifact, name)} for name, size in _files(artifact)
            ],
        }
        for artifact in telemetry.artifacts(find(id))
    ]


@router.get(
    "/{id}/artifacts/{attempt}/{path:name}",
    response=STORE_CODES,
    summary="Download one of its files",
    openapi_extra={
        "responses": {
            200: {
                "description": "The file.",
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        }
    },
)
def download(
    request: HttpRequest,
    id: JobId,
    attempt: Annotated[int, Path(ge=1, le=2**31 - 1)],
    name: Annotated[str, Path(max_length=400)],
    file: Annotated[str, Query("", max_length=400, description="Name below the artifact, where it is a folder.")],
) -> StreamingHttpResponse:
    stored = telemetry.artifacts(find(id))
    artifact = next((item for item in stored if (item["attempt"], item["name"]) == (attempt, name)), None)
    if artifact is None:
        raise NotFound("name", "artifact", name)
    sizes = dict(_files(artifact))
    wanted = file or (next(iter(sizes)) if len(sizes) == 1 else "")
    if wanted not in sizes:
        raise NotFound("file", "file", file)
    base = str(artifact["uri"]).rstrip("/")
    try:
        # An artifact that is one file is listed under the last part of its own URI.
        content = open_artifact(base if list(sizes) == [base.rsplit("/", 1)[-1]] else f"{base}/{wanted}")
    except Unreachable as error:
        raise Unavailable("file", str(error)) from None
    except (OSError, UnsafeURI):
        raise NotFound("file", "file", wanted) from None
    answer = StreamingHttpResponse(_pieces(content), content_type="application/octet-stream")
    answer["Content-Length"] = str(sizes[wanted])
    answer["Content-Disposition"] = content_disposition_header(True, wanted.rsplit("/", 1)[-1]) or "attachment"
    return answer


async def _pieces(content: IO[bytes]) -> AsyncIterator[bytes]:
    """The file in pieces; under ASGI a plain file would be read into memory whole."""
    try:
        while piece := await sync_to_async(content.read)(PIECE):
            yield piece
    finally:
        content.close()


def _files(artifact: dict[str, Any]) -> list[tuple[str, int]]:
    try:
        return list_artifact(artifact["uri"])
    except Unreachable as error:
        raise Unavailable("file", str(error)) from None
    except (OSError, UnsafeURI):
        return []


def _href(job: int, artifact: dict[str, Any], file: str) -> str:
    path = f"/api/v1/jobs/{job}/artifacts/{artifact['attempt']}/{quote(artifact['name'])}"
    return f"{path}?{urlencode({'file': file})}"
