"""Who sends a request: the user of a bearer token, or of the browser session with a valid CSRF token.

For views outside the REST router, which has its own. Knows nothing of what is asked.
"""

from enum import Enum
from typing import NamedTuple

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.middleware.csrf import CsrfViewMiddleware

from portal.accounts.models import ApiToken
from portal.accounts.services import live_token
from portal.lately import Lately

_tokens: Lately[str, ApiToken | None] = Lately(live_token)


class Denied(Enum):
    """Why a request is not served."""

    UNKNOWN = "unknown"
    FORGED = "forged"


def bearer(request: HttpRequest) -> str | None:
    """The token of `Authorization: Bearer …`; None without that header."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


class Caller(NamedTuple):
    """Who asks. `token`: the one that was sent, None for a browser's session."""

    user: User
    token: ApiToken | None


async def caller(request: HttpRequest) -> Caller | Denied:
    """Who asks, or why they don't. A bearer token needs no CSRF token; a session does, on every method that changes
    things."""
    sent = bearer(request)
    if sent is not None:
        token = await _tokens.get(sent)
        return Caller(token.user, token) if token else Denied.UNKNOWN
    user = await request.auser()
    if not isinstance(user, User) or not user.is_active:
        return Denied.UNKNOWN
    return Denied.FORGED if forged(request) else Caller(user, None)


class _CsrfCheck(CsrfViewMiddleware):
    def _reject(self, request: HttpRequest, reason: str) -> HttpResponseForbidden:
        """The bare answer: Django's would draw a page, which may read the database."""
        return HttpResponseForbidden(reason)


def forged(request: HttpRequest) -> bool:
    """Whether Django's CSRF check refuses the request (asked here because the views are exempt for bearer clients)."""
    check = _CsrfCheck(lambda _: HttpResponse())
    request.csrf_processing_done = False  # type: ignore[attr-defined]
    check.process_request(request)
    return isinstance(check.process_view(request, _no_view, (), {}), HttpResponseForbidden)


def _no_view(_: HttpRequest) -> HttpResponse:
    return HttpResponse()
