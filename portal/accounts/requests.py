"""The type of a request whose user is signed in, for views behind login_required. Types only."""

from django.contrib.auth.models import User
from django.http import HttpRequest


class SignedInRequest(HttpRequest):
    """A request with a user."""

    user: User
