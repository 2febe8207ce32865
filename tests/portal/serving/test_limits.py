"""How much a token may ask of launched models."""

import httpx
import pytest
import redis
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from portal.accounts.models import ApiToken, AuditEntry
from portal.accounts.services import create_token
from portal.serving import limits
from tests.portal.factories import make_user
from tests.portal.serving.conftest import Launch, ask, error_of
from tests.stack import poll

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory of a Redis that was away in another test."""
    monkeypatch.setattr(limits, "_redis", limits._Connection())


def test_a_token_over_its_rate_is_told_when_to_come_back(
    client: httpx.Client, launch: Launch, live_redis: "redis.Redis", settings: Settings, user: User
) -> None:
    settings.LIFTOFF_TOKEN_REQUESTS_PER_MINUTE = 3
    model = launch().server
    assert [ask(client).status_code for _ in range(3)] == [200] * 3
    answer = ask(client)
    error = error_of(answer, 429)
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "3 requests a minute" in error["message"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 20
    assert model.asked == 3
    client.headers["Authorization"] = f"Bearer {create_token(user, 'other')[1]}"
    assert ask(client).status_code == 200


def test_requests_at_a_time_are_counted_until_their_answers_end(
    client: httpx.Client, launch: Launch, live_redis: "redis.Redis", settings: Settings
) -> None:
    settings.LIFTOFF_TOKEN_CONCURRENT_REQUESTS = 1
    model = launch().server
    body = {"model": "tuned", "messages": [{"role": "user", "content": "wait"}], "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        assert "1 requests at a time" in error_of(ask(client), 429)["message"]
        model.go_on.set()
        assert list(lines)[-1] == "data: [DONE]"
    endless = {**body, "messages": [{"role": "user", "content": "endless"}]}
    with client.stream("POST", "/v1/chat/completions", json=endless):
        pass  # left in the middle
    assert model.left.wait(10)
    poll(lambda: not live_redis.keys("liftoff:asking:*"), "the place to be given back", 10)
    assert ask(client).status_code == 200


def test_a_token_s_own_limits_hold_instead_and_are_set_in_the_admin(
    client: httpx.Client, launch: Launch, live_redis: "redis.Redis", settings: Settings
) -> None:
    settings.LIFTOFF_TOKEN_REQUESTS_PER_MINUTE = 1
    launch()
    token = ApiToken.objects.get()
    boss = Client()
    boss.force_login(make_user("boss", staff=True))
    page = reverse("admin:accounts_apitoken_change", args=[token.pk])
    boss.post(page, {"requests_per_minute": "0", "concurrent_requests": "", "name": "renamed"})
    token.refresh_from_db()
    assert (token.requests_per_minute, token.concurrent_requests, token.name) == (0, None, "test")
    assert AuditEntry.objects.filter(action="limit token").exists()
    assert [ask(client).status_code for _ in range(4)] == [200] * 4


def test_while_redis_is_away_everybody_is_let_through(client: httpx.Client, launch: Launch, settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    settings.LIFTOFF_TOKEN_REQUESTS_PER_MINUTE = 1
    launch()
    assert [ask(client).status_code for _ in range(3)] == [200] * 3


def test_a_full_queue_s_own_word_comes_through_at_once(client: httpx.Client, launch: Launch) -> None:
    launch()
    answer = ask(client, "full")
    assert (error_of(answer, 429)["code"], answer.headers["Retry-After"]) == ("queue_full", "7")
