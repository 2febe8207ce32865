"""Who calls the REST API: a bearer token's user, or the browser session's with a valid CSRF token.

Knows nothing of routes; what a user may do is decided by them.
"""

from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest
from ninja.security import HttpBearer, SessionAuth

from portal.accounts.credentials import bearer, forged
from portal.accounts.services import authenticate
from portal.api.problems import Forbidden


class BearerToken(HttpBearer):
    """`Authorization: Bearer lift_…`; needs no CSRF token, since no browser sends it by itself."""

    def authenticate(self, request: HttpRequest, token: str) -> User | None:
        """The token's user."""
        return authenticate(token)


class BrowserSession(SessionAuth):
    """The session cookie; requests that change something need the CSRF token as X-CSRFToken."""

    def __call__(self, request: HttpRequest) -> Any:
        """The signed-in user. Raises Forbidden without a valid CSRF token."""
        if bearer(request) is not None or not request.user.is_authenticated:
            return None
        if forged(request):
            raise Forbidden("the CSRF token is missing or wrong; send it as X-CSRFToken, or use an API token.")
        return request.user


def user_of(request: HttpRequest) -> User:
    """The user that authentication found."""
    user = getattr(request, "auth", None)
    assert isinstance(user, User)
    return user


def staff_of(request: HttpRequest) -> User:
    """The user, who must be staff. Raises Forbidden."""
    user = user_of(request)
    if not user.is_staff:
        raise Forbidden("only staff may do this; ask an administrator.")
    return user
