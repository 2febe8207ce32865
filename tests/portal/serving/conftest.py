"""A portal over HTTP, launches that answer in it, and a client with a token."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import pytest
from django.contrib.auth.models import User

from portal.accounts.services import create_token
from portal.asgi import application
from portal.jobs.models import Attempt, Job
from portal.serving import holding, replicas
from portal.serving.services import mark_ready
from tests.portal.factories import make_attempt, make_job, make_node, make_user
from tests.portal.servers import FakeModel, serving

DEAD_URL = "http://127.0.0.1:9"


class Launched(NamedTuple):
    """A launch and the server that answers for it."""

    attempt: Attempt
    server: FakeModel


Launch = Callable[..., Launched]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a web process remembers of endpoints, whose numbers the next test uses again."""
    monkeypatch.setattr(replicas, "_under_way", Counter())
    monkeypatch.setattr(replicas, "_rests_until", {})
    monkeypatch.setattr(holding, "_marked_at", {})


@pytest.fixture
def user(db: None) -> User:
    return make_user("ada")


@pytest.fixture
def launch(user: User) -> Iterator[Launch]:
    """Makes a running launch whose server answers; of a `job` where it is given. `dead`: nobody listens there."""
    with ExitStack() as servers:

        def launch(name: str = "tuned", *, job: Job | None = None, dead: bool = False, **columns: Any) -> Launched:
            job = job or make_job(user, kind="launch", **columns)
            attempt = make_attempt(job, node=make_node(address="127.0.0.1"))
            server = FakeModel()
            url = DEAD_URL if dead else servers.enter_context(serving(server))
            assert mark_ready(attempt, url, name)
            return Launched(attempt, server)

        yield launch


@pytest.fixture
def portal(transactional_db: None) -> Iterator[str]:
    with serving(application) as url:
        yield url


@pytest.fixture
def client(portal: str, user: User) -> Iterator[httpx.Client]:
    token = create_token(user, "test")[1]
    with httpx.Client(base_url=portal, headers={"Authorization": f"Bearer {token}"}, timeout=20) as client:
        yield client


def ask(client: httpx.Client, wish: str = "hello", model: str = "tuned", **more: Any) -> httpx.Response:
    """What the model's server shall do (FakeModel), asked through the gateway."""
    body = {"model": model, "messages": [{"role": "user", "content": wish}], **more}
    return client.post("/v1/chat/completions", json=body)


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
