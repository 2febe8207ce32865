"""Django's ASGI handler, which takes a program's request to the gateway past the middleware that is for browsers.

Under ASGI the middleware runs in a thread, and so does what begins and ends a request: an answer that a bearer token
asks for needs none of those hops, each of which waits for a core that the model is using. Host, HTTPS and the headers
of answers are seen to here as well; who reads the database on this way lets its connection go
(`database_sync_to_async`). Knows nothing of what is asked.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.common import CommonMiddleware
from django.middleware.security import SecurityMiddleware
from django.urls import resolve

from portal.body_limit import Receive, Scope, Send

GATEWAY = "/v1/"


class Handler(ASGIHandler):
    """Programs go straight to the gateway's view, everybody else through all of `MIDDLEWARE`."""

    def __init__(self) -> None:
        super().__init__()
        self._gateway = _Gateway()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on by the one way or the other."""
        if scope["type"] == "http" and scope["path"].startswith(GATEWAY) and _has_token(scope):
            await self._gateway.handle(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class _Gateway(ASGIHandler):
    def load_middleware(self, is_async: bool = False) -> None:
        """None but what is seen to here."""
        self._seen_to: Callable[[HttpRequest], Any] = convert_exception_to_response(_straight)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the answer is at its end or its client has left."""
        with contextlib.suppress(RequestAborted), await self.read_body(receive) as body:
            request, refusal = self.create_request(scope, body)
            if request is None:
                await self.send_response(cast(HttpResponseBase, refusal), send)
                return
            answering = asyncio.ensure_future(self._answer(request, send))
            leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
            try:
                await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (leaving, answering):
                    task.cancel()
                await asyncio.gather(leaving, answering, return_exceptions=True)
            if not answering.cancelled():
                answering.result()

    async def _answer(self, request: HttpRequest, send: Send) -> None:
        answer = await self._seen_to(request)
        try:
            await self.send_response(answer, send)
        finally:
            answer.close()


def _has_token(scope: Scope) -> bool:
    return any(name == b"authorization" and value[:7].lower() == b"bearer " for name, value in scope["headers"])


async def _straight(request: HttpRequest) -> HttpResponseBase:
    for layer in _LAYERS:
        if (instead := layer.process_request(request)) is not None:
            refused: HttpResponseBase = instead
            return refused
    view, arguments, named = resolve(request.path_info)
    answer: HttpResponseBase = await view(request, *arguments, **named)
    for layer in reversed(_LAYERS):
        answer = layer.process_response(request, answer)
    return answer


def _never(_: HttpRequest) -> HttpResponseBase:
    raise AssertionError("layers are asked for their halves only")


_LAYERS: list[Any] = [SecurityMiddleware(_never), CommonMiddleware(_never)]
