"""The OpenAI-compatible gateway, over HTTP, in front of a small model server."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from django.test import Client

from portal.accounts.models import AuditEntry
from portal.jobs.models import Attempt, Job
from portal.jobs.tokens import serve_token
from portal.serving import selectors
from portal.serving.models import Endpoint
from portal.serving.services import mark_ready
from tests.portal.factories import make_attempt, make_job, make_node
from tests.portal.servers import FakeModel, serving
from tests.portal.serving.conftest import ask, error_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def attempt(user: User, model: FakeModel) -> Iterator[Attempt]:
    """A running launch of `tuned`, whose server answers."""
    attempt = make_attempt(make_job(user, kind="launch"), node=make_node(address="127.0.0.1"))
    with serving(model) as url:
        assert mark_ready(attempt, url, "tuned")
        yield attempt


def test_an_answer_comes_through_with_the_attempts_own_token(
    client: httpx.Client, attempt: Attempt, model: FakeModel
) -> None:
    answer = ask(client, "hello", temperature=0.1)
    assert answer.json() == {"choices": [{"message": {"content": "Hi."}}]}
    assert model.authorization == f"Bearer {serve_token(attempt.job_id, attempt.number)}"
    assert (model.body["temperature"], model.body["model"]) == (0.1, "tuned")


def test_an_answer_has_the_portals_headers_and_only_its_own_hosts_are_answered(
    client: httpx.Client, attempt: Attempt, settings: Any
) -> None:
    answer = ask(client)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    assert ask(client).status_code == 200
    assert client.get("/v1/models", headers={"Host": "elsewhere.example"}).status_code == 400


def test_a_stream_comes_through_piece_by_piece(client: httpx.Client, attempt: Attempt, model: FakeModel) -> None:
    body = {"model": f"job-{attempt.job_id}", "messages": [{"role": "user", "content": "wait"}], "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in answer.iter_lines() if line)
        # The model goes on only after its first piece has arrived here.
        assert json.loads(next(lines).removeprefix("data: "))["choices"][0]["delta"]["content"] == "one"
        model.go_on.set()
        assert "two" in next(lines)
        assert next(lines) == "data: [DONE]"
    assert model.body["model"] == "tuned"


def test_a_client_that_leaves_stops_the_generation(client: httpx.Client, attempt: Attempt, model: FakeModel) -> None:
    body = {"model": "tuned", "messages": [{"role": "user", "content": "endless"}], "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
    assert model.left.wait(10)


def test_a_client_that_leaves_before_the_answer_stops_it_too(
    client: httpx.Client, attempt: Attempt, model: FakeModel
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.post(
            "/v1/chat/completions",
            json={"model": "tuned", "messages": [{"role": "user", "content": "think"}]},
            timeout=httpx.Timeout(20, read=1),
        )
    assert model.left.wait(10)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_other_paths_go_to_the_server_s_own(
    client: httpx.Client, attempt: Attempt, model: FakeModel, path: str
) -> None:
    assert client.post(path, json={"model": "tuned", "prompt": "x", "input": "x"}).status_code == 200
    assert (model.path, model.body["model"]) == (path, "tuned")
    assert error_of(client.post(path, json={"model": "nobody"}), 404)["param"] == "model"


def test_a_stream_that_breaks_ends_with_an_error_event(client: httpx.Client, attempt: Attempt) -> None:
    events = [line.removeprefix("data: ") for line in ask(client, "break", stream=True).text.splitlines() if line]
    assert "one" in events[0]
    error = json.loads(events[-1])["error"]
    assert (error["code"], f"job #{attempt.job_id}" in error["message"]) == ("upstream_gone", True)


def test_the_models_own_refusal_comes_through(client: httpx.Client, attempt: Attempt) -> None:
    answer = ask(client, "refuse")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "max_tokens: 9 is too much.")
    assert error_of(ask(client, "garbage"), 502)["code"] == "upstream_error"
    assert error_of(ask(client, "stranger"), 502)["code"] == "upstream_refused"


def test_an_unknown_model_is_answered_with_the_live_names(client: httpx.Client, attempt: Attempt) -> None:
    error = error_of(ask(client, "hello", model="tunde"), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "tuned" in error["message"]
    for name in ("job-999999", "job-x", "job-" + "9" * 30, "a\0b"):
        assert error_of(ask(client, "hello", model=name), 404)
    Job.objects.update(status="cancelling")
    assert "none is launched" in error_of(ask(client, "hello"), 404)["message"]


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"model": 3}', "{}"])
def test_a_body_that_cannot_be_used_is_answered_with_400(client: httpx.Client, content: str) -> None:
    assert error_of(client.post("/v1/chat/completions", content=content), 400)


def test_a_number_that_json_has_not_is_answered_with_400(client: httpx.Client, attempt: Attempt) -> None:
    assert error_of(client.post("/v1/chat/completions", content='{"model": "tuned", "top_p": 1e999}'), 400)


def test_a_server_that_is_gone_is_answered_with_502(client: httpx.Client, user: User) -> None:
    attempt = make_attempt(make_job(user, kind="launch"), node=make_node(address="127.0.0.1"))
    assert mark_ready(attempt, "http://127.0.0.1:9", "gone")
    error = error_of(ask(client, "hello", model="gone"), 502)
    assert "can't be reached" in error["message"]


def test_models_lists_each_name_once_newest_first(client: httpx.Client, attempt: Attempt, user: User) -> None:
    newer = make_attempt(make_job(user, kind="launch"), node=make_node(address="127.0.0.1"))
    assert mark_ready(newer, "http://127.0.0.1:9", "tuned")
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["job"], model["owned_by"]) == ("tuned", newer.job_id, "ada")
    found = [selectors.serving(name) for name in ("tuned", f"job-{attempt.job_id}")]
    assert [[endpoint.attempt_id for endpoint in one] for one in found] == [[newer.pk], [attempt.pk]]


def test_strangers_get_nothing(portal: str, attempt: Attempt, model: FakeModel) -> None:
    with httpx.Client(base_url=portal) as stranger:
        assert error_of(ask(stranger, "hello"), 401)["code"] == "invalid_api_key"
        assert error_of(stranger.get("/v1/models"), 401)
        stranger.headers["Authorization"] = "Bearer lift_wrong"
        assert error_of(stranger.get("/v1/models"), 401)
        assert error_of(stranger.get("/v1/elsewhere"), 404)
        assert error_of(stranger.get("/v1/chat/completions"), 405)
    assert not model.body


def test_a_browser_session_needs_the_csrf_token(portal: str, attempt: Attempt, user: User) -> None:
    browser = Client()
    browser.force_login(user)
    cookies = {"sessionid": browser.cookies["sessionid"].value, "csrftoken": "a" * 32}
    with httpx.Client(base_url=portal, cookies=cookies) as client:
        assert client.get("/v1/models").status_code == 200
        assert error_of(ask(client, "hello"), 403)["code"] == "csrf_failed"
        client.headers["X-CSRFToken"] = "a" * 32
        assert ask(client, "hello").status_code == 200


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.5:9000", "http://10.0.0.6:9000", "http://10.0.0.5", "http://10.0.0.5:9000/x", "http://a@10.0.0.5:1",
        "http://10.0.0.5:99999", "http://10.0.0.5:9000?x", "file:///etc/passwd", "http://[::1", "http://10.0.0.5@evil:80",
    ],
)  # fmt: skip
def test_only_a_url_on_the_nodes_own_address_is_believed(url: str) -> None:
    attempt = make_attempt(make_job(kind="launch"), node=make_node(address="10.0.0.5"))
    assert mark_ready(attempt, url, "tuned") is None
    assert Endpoint.objects.count() == 0
    assert AuditEntry.objects.get().action == "refuse endpoint"


def test_saying_ready_twice_changes_nothing_and_an_old_attempt_is_not_live() -> None:
    job = make_job(kind="launch")
    node = make_node(address="10.0.0.5")
    old = make_attempt(job, node=node, status="failed")
    mark_ready(old, "http://10.0.0.5:9000", "tuned")
    current = make_attempt(job, node=node)
    assert not selectors.live_endpoints().exists()
    for _ in range(2):
        mark_ready(current, "http://10.0.0.5:9001/", "tuned")
    assert [endpoint.url for endpoint in selectors.live_endpoints()] == ["http://10.0.0.5:9001"]
