"""The OpenAI-compatible door: finds the launched model that a request names and passes the answer on as it comes.

Answers errors in OpenAI's shape. Knows nothing of tokens, templates or devices: the model's own server does.
"""

import json
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
from channels.db import database_sync_to_async
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from portal.accounts.credentials import Caller, Denied, caller
from portal.jobs.models import Job
from portal.lately import Lately
from portal.serving import models_list
from portal.serving.answers import RETRY_S, failure, upstream_failure
from portal.serving.holding import Hold
from portal.serving.limits import Admission
from portal.serving.models import Endpoint
from portal.serving.selectors import launch_behind, serving
from portal.serving.upstream import Unreachable, send, why
from portal.serving.waking import NotWoken, awaken

_endpoints: Lately[str, list[Endpoint]] = Lately(serving)

Answer = HttpResponse | StreamingHttpResponse
View = Callable[..., Coroutine[Any, Any, Answer]]


def _guarded(method: str, view: View) -> View:
    """Only `method`, only for a known user, whom the view is told."""

    @csrf_exempt
    async def guarded(request: HttpRequest, **names: str) -> Answer:
        if request.method != method:
            answer = failure(405, f"{request.method} is not possible here; use {method}.", code="method_not_allowed")
            answer["Allow"] = method
            return answer
        match await caller(request):
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
            case Caller() as known:
                return await view(request, known, **names)

    return guarded


async def _models(request: HttpRequest, caller: Caller) -> Answer:
    data = await database_sync_to_async(models_list.entries)()
    return JsonResponse({"object": "list", "data": data})


async def _model(request: HttpRequest, caller: Caller, name: str) -> Answer:
    data = await database_sync_to_async(models_list.entries)()
    found = next((entry for entry in data if entry["id"] == name), None)
    return JsonResponse(found) if found else await _unknown_model(name)


def _completions(path: str) -> View:
    """The view of one of the servers' own paths."""

    async def complete(request: HttpRequest, caller: Caller) -> Answer:
        body = _body(request)
        if isinstance(body, JsonResponse):
            return body
        admission = Admission(caller)
        refusal = await admission.enter()
        if refusal is not None:
            return failure(
                429,
                refusal.sentence,
                "rate_limit_error",
                code="rate_limit_exceeded",
                retry_after_s=refusal.retry_after_s,
            )
        hold = Hold(admission)
        try:
            answer = await _answer(hold, caller, path, body)
        except Unreachable as failed:
            answer = _gone(failed.endpoint, failed.error)
        except BaseException:
            hold.release()
            raise
        if answer.streaming:
            weakref.finalize(answer, hold.release)  # nobody may come to read it
        else:
            hold.release()
        return answer

    return _guarded("POST", complete)


def _body(request: HttpRequest) -> dict[str, Any] | JsonResponse:
    """The request, whose `model` is a name."""
    try:
        body = json.loads(request.body)
    except RequestDataTooBig:
        return failure(413, "The request is larger than this server takes; send a shorter conversation.")
    except (ValueError, RecursionError):
        return failure(400, "The body is not JSON; send one JSON object with model and messages.", code="invalid_json")
    if not isinstance(body, dict):
        return failure(400, "The body is not a JSON object; send one with model and messages.", code="invalid_json")
    if not isinstance(body.get("model"), str) or not body["model"]:
        return failure(400, "model: this field is required; give the name of a launched model.", param="model")
    return body


async def _answer(hold: Hold, caller: Caller, path: str, body: dict[str, Any]) -> Answer:
    model = body["model"]
    if "\0" in model:
        return await _unknown_model(model)
    endpoints = await _endpoints.get(model)
    if endpoints:
        try:
            return await _pass_on(hold, endpoints, path, body)
        except Unreachable:
            now = await _endpoints.read(model)
            if {endpoint.pk for endpoint in now} == {endpoint.pk for endpoint in endpoints}:
                raise
            endpoints = now  # what was known was a moment old
    if endpoints:
        return await _pass_on(hold, endpoints, path, body)
    launch = await database_sync_to_async(launch_behind)(model)
    if launch is None:
        return await _unknown_model(model)
    if body.get("stream") is True:
        return _event_stream(_once_awake(hold, caller, launch, path, body))
    try:
        async for word in awaken(launch, caller):
            if not isinstance(word, str):
                endpoints = word
    except NotWoken as error:
        return _asleep(error)
    return await _pass_on(hold, endpoints, path, body)


async def _once_awake(hold: Hold, caller: Caller, launch: Job, path: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
    """Comments on how far the launch is, then its answer."""
    endpoints: list[Endpoint] = []
    try:
        async for word in awaken(launch, caller):
            if isinstance(word, str):
                yield f": {' '.join(word.split())}\n\n".encode()
            else:
                endpoints = word
        answer: Answer = await _pass_on(hold, endpoints, path, body)
    except NotWoken as error:
        answer = _asleep(error)
    except Unreachable as failed:
        answer = _gone(failed.endpoint, failed.error)
    finally:
        if not endpoints:
            hold.release()
    if not isinstance(answer, StreamingHttpResponse):
        hold.release()
        yield b"data: " + answer.content + b"\n\n"
        return
    async for chunk in answer:
        yield chunk


def _asleep(error: NotWoken) -> JsonResponse:
    return failure(503, str(error), "server_error", code="model_not_ready", retry_after_s=error.retry_after_s)


async def _unknown_model(model: str) -> JsonResponse:
    names = await database_sync_to_async(lambda: [entry["id"] for entry in models_list.entries()])()
    if names:
        hint = f"launched now: {', '.join(names)}."
    else:
        hint = "none is launched now; launch one and wait until it is ready."
    return failure(
        404, f"model: there is no launched model named {model!r}; {hint}", param="model", code="model_not_found"
    )


async def _pass_on(hold: Hold, endpoints: list[Endpoint], path: str, body: dict[str, Any]) -> Answer:
    """Raises Unreachable."""
    try:
        content = json.dumps({**body, "model": endpoints[0].model_name}, allow_nan=False).encode()
    except ValueError:
        return failure(400, "The body holds NaN or an infinite number, which JSON has not.", code="invalid_json")
    endpoint, answer = await send(hold, endpoints, path, content)
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return _event_stream(_relay(hold, endpoint, answer), answer.status)
    try:
        whole = await answer.read()
    except aiohttp.ClientError as error:
        return _gone(endpoint, error)
    return _whole(endpoint, answer, whole, path)


def _whole(endpoint: Endpoint, answer: aiohttp.ClientResponse, content: bytes, path: str) -> HttpResponse:
    """The server's answer as it is, if it is JSON of a status that concerns the client."""
    status = answer.status
    if status in (401, 403):
        why = "refused the portal; the portal's secret key changed since the launch, so launch the model again."
        return upstream_failure(endpoint, why, "upstream_refused")
    try:
        said = json.loads(content)
    except ValueError:
        return upstream_failure(endpoint, f"answered {status} without JSON.", "upstream_error")
    if status == 404 and "error" not in said:
        return failure(404, f"{endpoint.model_name!r} has no {path}.", code="unknown_url")
    passed = HttpResponse(content, status=status, content_type="application/json")
    if "retry-after" in answer.headers:
        passed["Retry-After"] = answer.headers["retry-after"]
    return passed


def _event_stream(events: AsyncIterator[bytes], status: int = 200) -> StreamingHttpResponse:
    response = StreamingHttpResponse(events, status=status, content_type="text/event-stream")
    response["Cache-Control"] = "no-cache"
    response["X-Accel-Buffering"] = "no"
    return response


async def _relay(hold: Hold, endpoint: Endpoint, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The stream as it comes; closes the model's side when the client leaves, which stops the generation."""
    try:
        async for chunk in answer.content.iter_any():
            yield chunk
    except aiohttp.ClientError as error:
        yield b"data: " + _gone(endpoint, error).content + b"\n\n"
    finally:
        hold.release()


def _gone(endpoint: Endpoint, error: aiohttp.ClientError) -> JsonResponse:
    answer = upstream_failure(endpoint, f"{why(error)}; its job's page says why.", "upstream_gone")
    answer["Retry-After"] = str(round(RETRY_S))
    return answer


async def _nothing_here(request: HttpRequest) -> Answer:
    paths = "/v1/models, /v1/chat/completions, /v1/completions and /v1/embeddings"
    return failure(404, f"There is nothing at {request.path}; there are {paths}.")


models = _guarded("GET", _models)
model = _guarded("GET", _model)
chat_completions = _completions("/v1/chat/completions")
completions = _completions("/v1/completions")
embeddings = _completions("/v1/embeddings")
nothing_here = csrf_exempt(_nothing_here)
