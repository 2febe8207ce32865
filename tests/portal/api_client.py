"""A client of the REST API for tests, and the shape of its refusals."""

from typing import Any

from django.contrib.auth.models import User
from django.test import Client

from portal.accounts.services import create_token

API = "/api/v1"


class Caller:
    """A client with a bearer token that speaks JSON."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.client = Client(headers={"authorization": f"Bearer {create_token(user, 'test')[1]}"})

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(API + path, query)

    def post(self, path: str, body: Any = None, key: str = "") -> Any:
        headers = {"idempotency-key": key} if key else {}
        return self.client.post(API + path, body or {}, content_type="application/json", headers=headers)

    def upload(self, path: str, **fields: Any) -> Any:
        return self.client.post(API + path, fields)


def refusal(answer: Any, status: int = 422) -> dict[str, Any]:
    """The one error of an answer in the API's shape."""
    assert answer.status_code == status, answer.content
    (error,) = answer.json()["errors"]
    assert set(error) == {"field", "value", "message"}
    assert error["message"].startswith(error["field"])
    assert error["message"].endswith((".", ";", "?")) or "; did you mean" in error["message"]
    found: dict[str, Any] = error
    return found
