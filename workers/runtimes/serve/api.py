"""The HTTP face of an engine: /health, /v1/models, /v1/chat/completions, behind a bearer token.

Knows nothing of how text is made. Bad requests are answered in OpenAI's error shape.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.contract.launch import LaunchSpec
from workers.runtimes.base import RunFailed
from workers.runtimes.serve.engine import Ask, Engine, Piece
from workers.runtimes.serve.protocol import BadRequest, ChatRequest, Reply, error_body

Report = Callable[[dict[str, float]], None]
Pieces = AsyncGenerator[Piece, None]


class TokenGate:
    """Lets a request through with `Authorization: Bearer TOKEN`; /health is open to all."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._expected):
                body = error_body("This model asks for its bearer token.", code="invalid_api_key")
                await JSONResponse(body, status_code=401, headers={"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Tally:
    """Counts what was served and reports it after each answer: requests_total, tokens_out_total, ttft_s (seconds from
    request to first text, waiting included) and tokens_per_s (of the answer, after its first text)."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._requests, self._tokens = 0, 0

    async def watch(self, pieces: Pieces) -> Pieces:
        start, first, tokens = time.monotonic(), None, 0
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    first = first or time.monotonic()
                    tokens = piece.tokens
                    yield piece
        finally:
            self._requests, self._tokens = self._requests + 1, self._tokens + tokens
            values: dict[str, float] = {"requests_total": self._requests, "tokens_out_total": self._tokens}
            if first is not None:
                values["ttft_s"] = first - start
                if tokens > 1 and (took := time.monotonic() - first) > 0:
                    values["tokens_per_s"] = (tokens - 1) / took
            self._report(values)


def make_app(engine: Engine, spec: LaunchSpec, model_name: str, token: str, report: Report) -> ASGIApp:
    """The whole application, gate included. `report` receives figures after each answer."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    tally = Tally(report)
    created = int(time.time())

    @app.exception_handler(BadRequest)
    async def refuse(_: Request, error: BadRequest) -> Response:
        return JSONResponse(error.body(), status_code=error.status)

    @app.exception_handler(RequestValidationError)
    async def refuse_field(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse(_field_error(error), status_code=400)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        served = {"id": model_name, "object": "model", "created": created, "owned_by": "liftoff"}
        return {"object": "list", "data": [served]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatRequest) -> Response:
        ask = plan(body, engine, spec, model_name)
        reply = Reply(model_name, len(ask.prompt))
        pieces = tally.watch(engine.answer(ask))
        if body.stream:
            return StreamingResponse(_events(pieces, reply), media_type="text/event-stream")
        return await _whole(request, pieces, reply)

    return TokenGate(app, token)


def plan(body: ChatRequest, engine: Engine, spec: LaunchSpec, model_name: str) -> Ask:
    """The request with the launch's defaults filled in. Raises BadRequest where it doesn't fit."""
    if body.model is not None and body.model != model_name:
        message = f"model: {body.model!r} is not served here; this is {model_name!r}."
        raise BadRequest(message, "model", 404, "model_not_found")
    try:
        prompt = engine.tokens([message.model_dump() for message in body.messages])
    except RunFailed as error:
        raise BadRequest(error.detail, "messages") from error
    limit, room = engine.context_length, engine.context_length - len(prompt)
    if room < 1:
        message = f"messages: {len(prompt)} tokens fill the context of {limit}; send fewer."
        raise BadRequest(message, "messages", code="context_length_exceeded")
    asked, name = body.max_tokens, "max_tokens"
    if body.max_completion_tokens is not None:
        asked, name = body.max_completion_tokens, "max_completion_tokens"
    if asked is not None and asked > room:
        message = (
            f"{name}: {asked} and a prompt of {len(prompt)} tokens are beyond the context of {limit}; "
            f"use at most {room}."
        )
        raise BadRequest(message, name, code="context_length_exceeded")
    return Ask(
        prompt=prompt,
        max_tokens=asked if asked is not None else min(spec.max_tokens, room),
        temperature=body.temperature if body.temperature is not None else spec.temperature,
        top_p=body.top_p if body.top_p is not None else spec.top_p,
        seed=body.seed if body.seed is not None else spec.seed,
        stop=tuple(body.stop or ()),
    )


async def _events(pieces: Pieces, reply: Reply) -> AsyncIterator[str]:
    """Server-sent events: role, text, finish reason, usage, [DONE]."""
    yield _event(reply.first())
    tokens = 0
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                tokens = piece.tokens
                if piece.text:
                    yield _event(reply.delta(piece.text))
                if piece.finish_reason:
                    yield _event(reply.last(piece.finish_reason))
    except Exception as error:
        yield _event(_server_error(error))
    else:
        yield _event(reply.usage(tokens))
    yield "data: [DONE]\n\n"


async def _whole(request: Request, pieces: Pieces, reply: Reply) -> Response:
    """The whole answer, given up when the caller goes away."""
    collecting = asyncio.create_task(_collect(pieces))
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            return Response(status_code=499)  # nobody reads it
        text, last = collecting.result()
    except Exception as error:
        return JSONResponse(_server_error(error), status_code=500)
    finally:
        collecting.cancel()
        leaving.cancel()
    return JSONResponse(reply.whole(text, last.finish_reason or "stop", last.tokens))


async def _collect(pieces: Pieces) -> tuple[str, Piece]:
    texts, last = [], Piece("", 0, "stop")
    async with aclosing(pieces):
        async for piece in pieces:
            texts.append(piece.text)
            last = piece
    return "".join(texts), last


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _server_error(error: Exception) -> dict[str, Any]:
    return error_body(f"The model could not answer ({type(error).__name__}: {error}).", kind="server_error")


def _field_error(error: RequestValidationError) -> dict[str, Any]:
    problem = error.errors()[0]
    where = [str(part) for part in problem["loc"] if part != "body" and problem["type"] != "json_invalid"]
    param = where[0] if where else None
    given = "" if problem["type"] in ("missing", "json_invalid") else f" (given: {problem['input']!r:.100})"
    return error_body(f"{'.'.join(where) or 'body'}: {problem['msg']}{given}.", param)
