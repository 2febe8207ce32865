"""The HTTP face of an engine: /health, /v1/models, /v1/chat/completions, /v1/completions and /v1/embeddings.

Knows nothing of how text is made. Bad requests are answered in OpenAI's error shape.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.contract.launch import LaunchSpec
from workers.runtimes.serve import tools
from workers.runtimes.serve.asking import Asking
from workers.runtimes.serve.engine import Ask, Broken, Engine, Piece, Refused, Stream
from workers.runtimes.serve.gate import TokenGate
from workers.runtimes.serve.protocol import (
    BadRequest,
    ChatRequest,
    CompletionRequest,
    EmbeddingsRequest,
    error_body,
)
from workers.runtimes.serve.replies import ChatReply, Choice, Reply, TextReply, embeddings
from workers.runtimes.serve.tally import Tally

RETRY_AFTER_S = {"full": 1, "stopping": 10, "failed": 10}


class Answers:
    """Begins what a request asks for, and writes it as it comes."""

    def __init__(self, engine: Engine, tally: Tally) -> None:
        self._engine, self._tally = engine, tally

    async def give(
        self, request: Request, asks: Sequence[Ask], reply: Reply, streamed: bool, with_tools: bool = False
    ) -> Response:
        """All asks are begun before anything is answered: where one finds no place, none is made."""
        begun: list[Stream] = []
        try:
            for ask in asks:
                begun.append(self._engine.stream(ask))
        except Refused:
            for stream in begun:
                stream.cancel()
            raise
        pieces = self._pieces(begun)
        if streamed:
            return EventStream(begun, _events(pieces, reply, len(asks), with_tools))
        return await _whole(request, pieces, reply, len(asks), with_tools)

    async def _pieces(self, streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Piece]]:
        """(number of the answer, piece) of all as they come. Left early, all are given up."""
        given: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

        async def follow(number: int, stream: Stream) -> None:
            try:
                async with aclosing(self._tally.watch(stream)) as pieces:  # type: ignore[type-var]
                    async for piece in pieces:
                        given.put_nowait((number, piece))
            except Exception as error:
                given.put_nowait((number, error))
            given.put_nowait((number, None))

        tasks = [asyncio.create_task(follow(number, stream)) for number, stream in enumerate(streams)]
        left = len(tasks)
        try:
            while left:
                number, piece = await given.get()
                if isinstance(piece, Exception):
                    raise piece
                if piece is None:
                    left -= 1
                else:
                    yield number, piece
        finally:
            for stream, task in zip(streams, tasks, strict=True):
                stream.cancel()
                task.cancel()


class EventStream(StreamingResponse):
    """Server-sent events. However it ends, even before it begins, the answers behind it are given up."""

    def __init__(self, streams: Sequence[Stream], events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for stream in self._streams:
                stream.cancel()


def make_app(engine: Engine, spec: LaunchSpec, model_name: str, token: str, tally: Tally) -> ASGIApp:
    """The whole application, gate included."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    asking, answers = Asking(engine, spec, model_name), Answers(engine, tally)
    created = int(time.time())

    @app.exception_handler(BadRequest)
    async def refuse(_: Request, error: BadRequest) -> Response:
        tally.failed("invalid")
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers())

    @app.exception_handler(RequestValidationError)
    async def refuse_field(_: Request, error: RequestValidationError) -> Response:
        tally.failed("invalid")
        return JSONResponse(_field_error(error), status_code=400)

    @app.exception_handler(Refused)
    async def refuse_now(_: Request, error: Refused) -> Response:
        tally.failed(error.why)
        full = error.why == "full"
        body = error_body(
            error.message, code=f"engine_{error.why}", kind="rate_limit_error" if full else "server_error"
        )
        after = str(RETRY_AFTER_S[error.why])
        return JSONResponse(body, status_code=429 if full else 503, headers={"Retry-After": after})

    @app.get("/health")
    async def health() -> Response:
        state = "failed" if engine.failure else "ok"
        return JSONResponse({"status": state}, status_code=503 if engine.failure else 200)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        served = {"id": model_name, "object": "model", "created": created, "owned_by": "liftoff"}
        return {"object": "list", "data": [served]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatRequest) -> Response:
        asks = asking.chat(body)
        reply = ChatReply(model_name, len(asks[0].prompt), asks[0].logprobs is not None)
        return await answers.give(request, asks, reply, bool(body.stream), bool(body.offered))

    @app.post("/v1/completions")
    async def complete(request: Request, body: CompletionRequest) -> Response:
        asks = asking.completion(body)
        reply = TextReply(model_name, len(asks[0].prompt), asks[0].logprobs is not None)
        return await answers.give(request, asks, reply, bool(body.stream))

    @app.post("/v1/embeddings")
    async def embed(body: EmbeddingsRequest) -> dict[str, Any]:
        prompts = asking.embeddings(body)
        vectors = await engine.embed(prompts)
        return embeddings(model_name, vectors, sum(map(len, prompts)), body.encoding_format == "base64")

    return TokenGate(app, token)


async def _events(
    pieces: AsyncIterator[tuple[int, Piece]], reply: Reply, answers: int, with_tools: bool
) -> AsyncIterator[str]:
    """Server-sent events: role, text, finish reason, usage, [DONE]."""
    for number in range(answers):
        if (first := reply.first(number)) is not None:
            yield _event(first)
    tokens, held = [0] * answers, [""] * answers
    try:
        async with aclosing(pieces):  # type: ignore[type-var]
            async for number, piece in pieces:
                tokens[number] = piece.tokens
                text, reason = piece.text, piece.finish_reason
                if with_tools:  # a call is sent whole
                    text, held[number] = _before_calls(held[number] + text, last=bool(reason))
                    if reason:
                        rest, calls = tools.split(held[number])
                        text += rest
                        if calls:
                            reason = "tool_calls"
                            yield _event(reply.calls(number, calls))
                if text or piece.made:
                    yield _event(reply.delta(number, text, piece.made))
                if reason:
                    yield _event(reply.last(number, reason))
    except Exception as error:
        yield _event(_server_error(error))
    else:
        yield _event(reply.usage(sum(tokens)))
    yield "data: [DONE]\n\n"


def _before_calls(text: str, last: bool) -> tuple[str, str]:
    """(what is text for certain, what may be a call of a tool)."""
    at = text.find(tools.OPENING)
    if at < 0:
        overlaps = (size for size in range(len(tools.OPENING), 0, -1) if text.endswith(tools.OPENING[:size]))
        at = len(text) - (0 if last else next(overlaps, 0))
    return text[:at], text[at:]


async def _whole(
    request: Request, pieces: AsyncIterator[tuple[int, Piece]], reply: Reply, answers: int, with_tools: bool
) -> Response:
    """The whole answer, given up when the caller goes away."""
    collecting = asyncio.create_task(_collect(pieces, answers))
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            return Response(status_code=499)  # nobody reads it
        choices = collecting.result()
    except Exception as error:
        return JSONResponse(_server_error(error), status_code=500)
    finally:
        collecting.cancel()
        leaving.cancel()
    for choice in choices if with_tools else ():
        choice.text, choice.calls = tools.split(choice.text)
        choice.finish_reason = "tool_calls" if choice.calls else choice.finish_reason
    return JSONResponse(reply.whole(choices))


async def _collect(pieces: AsyncIterator[tuple[int, Piece]], answers: int) -> list[Choice]:
    choices = [Choice() for _ in range(answers)]
    async with aclosing(pieces):  # type: ignore[type-var]
        async for number, piece in pieces:
            choice = choices[number]
            choice.text += piece.text
            choice.made += piece.made
            choice.tokens, choice.finish_reason = piece.tokens, piece.finish_reason or "stop"
    return choices


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _server_error(error: Exception) -> dict[str, Any]:
    message = (
        str(error) if isinstance(error, Broken) else f"The model could not answer ({type(error).__name__}: {error})."
    )
    return error_body(message, kind="server_error")


def _field_error(error: RequestValidationError) -> dict[str, Any]:
    problem = error.errors()[0]
    where = [str(part) for part in problem["loc"] if part != "body" and problem["type"] != "json_invalid"]
    param = where[0] if where else None
    given = "" if problem["type"] in ("missing", "json_invalid") else f" (given: {problem['input']!r:.100})"
    return error_body(f"{'.'.join(where) or 'body'}: {problem['msg']}{given}.", param)
