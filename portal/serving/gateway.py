"""The OpenAI-compatible door: finds the launched model that a request names and passes the answer on as it comes.

Answers errors in OpenAI's shape. Knows nothing of tokens, templates or devices: the model's own server does.
"""

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
from asgiref.sync import sync_to_async
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from portal.accounts.credentials import Denied, requester
from portal.jobs.tokens import serve_token
from portal.serving.models import Endpoint
from portal.serving.selectors import find_endpoint, live_endpoints

# Seconds. A model on a slow device may think for minutes before its first token.
TIMEOUT = httpx.Timeout(connect=5, read=600, write=30, pool=5)

Answer = HttpResponse | StreamingHttpResponse
View = Callable[[HttpRequest], Coroutine[Any, Any, Answer]]


def failure(
    status: int, message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> JsonResponse:
    """An error in OpenAI's shape."""
    return JsonResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status=status)


def _guarded(method: str, view: View) -> View:
    """Only `method`, only a known user."""

    @csrf_exempt
    async def guarded(request: HttpRequest) -> Answer:
        if request.method != method:
            answer = failure(405, f"{request.method} is not possible here; use {method}.", code="method_not_allowed")
            answer["Allow"] = method
            return answer
        match await requester(request):
            case Denied.UNKNOWN:
                return failure(
                    401,
                    "No valid API token came with this request; send Authorization: Bearer <token>.",
                    "authentication_error",
                    code="invalid_api_key",
                )
            case Denied.FORGED:
                return failure(
                    403,
                    "The CSRF token is missing or wrong; send it as X-CSRFToken, or use an API token.",
                    "permission_error",
                    code="csrf_failed",
                )
        return await view(request)

    return guarded


async def _models(request: HttpRequest) -> Answer:
    endpoints = await sync_to_async(lambda: list(live_endpoints()))()
    newest: dict[str, Endpoint] = {}
    for endpoint in endpoints:
        newest.setdefault(endpoint.model_name, endpoint)
    data = [
        {
            "id": name,
            "object": "model",
            "created": int(endpoint.ready_at.timestamp()),
            "owned_by": endpoint.attempt.job.owner.get_username(),
            "job": endpoint.attempt.job_id,
        }
        for name, endpoint in newest.items()
    ]
    return JsonResponse({"object": "list", "data": data})


async def _chat_completions(request: HttpRequest) -> Answer:
    body = _body(request)
    if isinstance(body, JsonResponse):
        return body
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return failure(400, "model: this field is required; give the name of a launched model.", param="model")
    endpoint = await sync_to_async(find_endpoint)(model) if "\0" not in model else None
    if endpoint is None:
        return await _unknown_model(model)
    try:
        content = json.dumps({**body, "model": endpoint.model_name}, allow_nan=False).encode()
    except ValueError:
        return failure(400, "The body holds NaN or an infinite number, which JSON has not.", code="invalid_json")
    return await _pass_on(endpoint, content)


def _body(request: HttpRequest) -> dict[str, Any] | JsonResponse:
    try:
        body = json.loads(request.body)
    except RequestDataTooBig:
        return failure(413, "The request is larger than this server takes; send a shorter conversation.")
    except (ValueError, RecursionError):
        return failure(400, "The body is not JSON; send one JSON object with model and messages.", code="invalid_json")
    if not isinstance(body, dict):
        return failure(400, "The body is not a JSON object; send one with model and messages.", code="invalid_json")
    return body


async def _unknown_model(model: str) -> JsonResponse:
    names = await sync_to_async(lambda: sorted({endpoint.model_name for endpoint in live_endpoints()}))()
    if names:
        hint = f"launched now: {', '.join(names)}."
    else:
        hint = "none is launched now; launch one and wait until it is ready."
    return failure(
        404, f"model: there is no launched model named {model!r}; {hint}", param="model", code="model_not_found"
    )


async def _pass_on(endpoint: Endpoint, content: bytes) -> Answer:
    attempt = endpoint.attempt
    # No proxy of the environment, no redirect: the URL was checked against the node and nothing else is called.
    client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, follow_redirects=False)
    try:
        request = client.build_request(
            "POST",
            f"{endpoint.url}/v1/chat/completions",
            content=content,
            headers={
                "Authorization": f"Bearer {serve_token(attempt.job_id, attempt.number)}",
                "Content-Type": "application/json",
            },
        )
        answer = await client.send(request, stream=True)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            response = StreamingHttpResponse(
                _relay(client, answer, endpoint), status=answer.status_code, content_type="text/event-stream"
            )
            response["Cache-Control"] = "no-cache"
            response["X-Accel-Buffering"] = "no"
            return response
        whole = await answer.aread()
    except httpx.HTTPError as error:
        await client.aclose()
        return _gone(endpoint, error)
    except BaseException:
        await client.aclose()
        raise
    await answer.aclose()
    await client.aclose()
    return _whole(endpoint, answer.status_code, whole)


def _whole(endpoint: Endpoint, status: int, content: bytes) -> HttpResponse:
    """The server's answer as it is, if it is JSON of a status that concerns the client."""
    if status in (401, 403):
        return failure(
            502,
            f"The server of {endpoint.model_name!r} (job #{endpoint.attempt.job_id}) refused the portal; "
            "the portal's secret key changed since the launch, so launch the model again.",
            "upstream_error",
            code="upstream_refused",
        )
    try:
        json.loads(content)
    except ValueError:
        return failure(
            502,
            f"The server of {endpoint.model_name!r} (job #{endpoint.attempt.job_id}) answered {status} without JSON.",
            "upstream_error",
            code="upstream_error",
        )
    return HttpResponse(content, status=status, content_type="application/json")


async def _relay(client: httpx.AsyncClient, answer: httpx.Response, endpoint: Endpoint) -> AsyncIterator[bytes]:
    """The stream as it comes; closes the model's side when the client leaves, which stops the generation."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        yield b"data: " + _gone(endpoint, error).content + b"\n\n"
    finally:
        await answer.aclose()
        await client.aclose()


def _gone(endpoint: Endpoint, error: Exception) -> JsonResponse:
    if isinstance(error, httpx.ReadTimeout):
        what = f"gave no answer within {TIMEOUT.read:.0f} s"
    elif isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        what = "can't be reached"
    else:
        what = "broke off its answer"
    return failure(
        502,
        f"The server of {endpoint.model_name!r} (job #{endpoint.attempt.job_id}) {what}; its job's page says why.",
        "upstream_error",
        code="upstream_gone",
    )


async def _nothing_here(request: HttpRequest) -> Answer:
    return failure(404, f"There is nothing at {request.path}; there are /v1/models and /v1/chat/completions.")


models = _guarded("GET", _models)
chat_completions = _guarded("POST", _chat_completions)
nothing_here = csrf_exempt(_nothing_here)
