"""Takes a program's request to the gateway past the middleware that is for browsers.

Under ASGI Django carries each middleware's part out in a thread: some fifteen hops, several milliseconds, of which an
answer that a bearer token asks for needs none. Host, HTTPS and the headers of answers are seen to here as well. Knows
nothing of what is asked.
"""

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.middleware.common import CommonMiddleware
from django.middleware.security import SecurityMiddleware
from django.urls import resolve
from django.utils.decorators import sync_and_async_middleware

from portal.accounts.credentials import bearer

GATEWAY = "/v1/"


@sync_and_async_middleware
def straight(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """The first middleware. Without ASGI there is no hop to save, and it does nothing."""
    if not iscoroutinefunction(get_response):
        return get_response
    layers: list[Any] = [SecurityMiddleware(get_response), CommonMiddleware(get_response)]

    async def pass_on(request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(GATEWAY) or bearer(request) is None:
            through: HttpResponseBase = await get_response(request)
            return through
        for layer in layers:
            if (instead := layer.process_request(request)) is not None:
                refused: HttpResponseBase = instead
                return refused
        view, arguments, named = resolve(request.path_info)
        answer = await view(request, *arguments, **named)
        for layer in reversed(layers):
            answer = layer.process_response(request, answer)
        done: HttpResponseBase = answer
        return done

    return pass_on
