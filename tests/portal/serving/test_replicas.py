"""A launch in several copies: how they are made and stopped, and which of them a request goes to."""

import httpx
import pytest
import redis
from django.contrib.auth.models import User
from pytest_django.fixtures import Settings

from portal.accounts import credentials
from portal.accounts.services import live_token
from portal.jobs import services
from portal.jobs.lifecycle import Status
from portal.jobs.models import Job
from portal.lately import Lately
from portal.serving import gateway
from portal.serving.selectors import serving
from tests.portal.factories import make_job, make_model
from tests.portal.serving.conftest import Launch, ask, error_of

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_launch_with_replicas_is_so_many_jobs_that_stop_together(user: User) -> None:
    spec = {"kind": "launch", "model": make_model("base").name, "replicas": 3}
    first, _ = services.submit(user, spec, idempotency_key="once")
    again, new = services.submit(user, spec, idempotency_key="once")
    assert (again, new) == (first, False)
    jobs = list(Job.objects.order_by("pk"))
    assert [job.replica_of for job in jobs] == [None, first, first]
    assert [job.name for job in jobs] == ["Launch base", "Launch base (2 of 3)", "Launch base (3 of 3)"]
    assert [job.spec["replicas"] for job in jobs] == [3, 1, 1]
    services.cancel(jobs[2], user)
    assert {job.status for job in Job.objects.exclude(pk=jobs[2].pk)} == {Status.QUEUED}
    services.cancel(first, user)
    assert {job.status for job in Job.objects.all()} == {Status.CANCELLED}


def test_a_request_goes_to_the_replica_with_the_least_to_do(client: httpx.Client, launch: Launch, user: User) -> None:
    one = launch()
    two = launch(job=make_job(user, kind="launch", replica_of=one.attempt.job))
    body = {"model": "tuned", "messages": [{"role": "user", "content": "wait"}], "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as busy:
        lines = busy.iter_lines()
        next(lines)
        idle = two.server if one.server.asked else one.server
        for _ in range(4):
            assert ask(client).status_code == 200
        assert idle.asked == 4
        for model in (one.server, two.server):
            model.go_on.set()
        assert "data: [DONE]" in list(lines)
    entry = client.get("/v1/models/tuned").json()
    assert (entry["replicas"], entry["job"]) == (2, one.attempt.job_id)


def test_a_replica_that_is_gone_costs_no_request(client: httpx.Client, launch: Launch, user: User) -> None:
    dead = launch(dead=True)
    alive = launch(job=make_job(user, kind="launch", replica_of=dead.attempt.job))
    assert [ask(client).status_code for _ in range(5)] == [200] * 5
    assert alive.server.asked == 5


def test_what_is_being_stopped_gets_nothing_new_and_ends_what_it_has(
    client: httpx.Client, launch: Launch, user: User, live_redis: "redis.Redis"
) -> None:
    stopping = launch()
    body = {"model": "tuned", "messages": [{"role": "user", "content": "wait"}], "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = (line for line in answer.iter_lines() if line)
        assert "one" in next(lines)
        other = launch(job=make_job(user, kind="launch", replica_of=stopping.attempt.job))
        services.cancel(stopping.attempt.job, user)
        Job.objects.filter(pk=other.attempt.job_id).update(status="running")
        assert [ask(client).status_code for _ in range(3)] == [200] * 3
        assert (stopping.server.asked, other.server.asked) == (1, 3)
        stopping.server.go_on.set()
        assert list(lines)[-1] == "data: [DONE]"


def test_a_newer_launch_of_the_name_takes_over_and_the_older_keeps_its_number(
    client: httpx.Client, launch: Launch
) -> None:
    older, newer = launch(), launch()
    assert [ask(client).status_code for _ in range(3)] == [200] * 3
    assert ask(client, model=f"job-{older.attempt.job_id}").status_code == 200
    assert (older.server.asked, newer.server.asked) == (1, 3)


def test_a_launch_that_makes_room_gets_nothing_new(
    client: httpx.Client, launch: Launch, settings: Settings, live_redis: "redis.Redis"
) -> None:
    settings.LIFTOFF_WAKE_S = 0
    told = launch()
    assert services.preempt(told.attempt.job_id, "Makes room.")
    error = error_of(ask(client), 503)
    assert f"#{told.attempt.job_id}" in error["message"]
    assert told.server.asked == 0


def test_what_is_known_of_a_moment_ago_is_read_anew_where_it_leads_nowhere(
    client: httpx.Client, launch: Launch, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LIFTOFF_GATEWAY_REMEMBERS_S = 60
    monkeypatch.setattr(gateway, "_endpoints", Lately(serving))
    monkeypatch.setattr(credentials, "_tokens", Lately(live_token))
    launch(dead=True)
    answer = ask(client)
    assert "can't be reached" in error_of(answer, 502)["message"]
    assert answer.headers["Retry-After"]
    newer = launch()
    assert ask(client).status_code == 200
    assert newer.server.asked == 1
