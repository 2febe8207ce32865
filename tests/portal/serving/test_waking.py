"""A launch that nobody asks is stopped and the next request wakes it; one that crashes comes back, to a point."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.utils import timezone
from pytest_django.fixtures import Settings

from portal.accounts.credentials import Caller
from portal.accounts.models import AuditEntry
from portal.jobs import services
from portal.jobs.ending import finish
from portal.jobs.lifecycle import Status
from portal.jobs.models import Attempt, Job
from portal.serving import waking
from portal.serving.idle import stop_idle
from portal.serving.models import Endpoint
from portal.serving.services import mark_ready
from tests.portal.factories import make_attempt, make_job, make_model, make_user
from tests.portal.serving.conftest import Launch, Launched, ask, error_of
from workers.contract.reasons import Reason

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_redis")]

IDLE: dict[str, Any] = {"idle_stop_minutes": 5}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "LOOK_S", 0.02)


def fall_asleep(launched: Launched) -> None:
    """As the controller finds it idle, and its node ends it."""
    assert [job.pk for job in stop_idle(timezone.now() + timedelta(minutes=6))] == [launched.attempt.job_id]
    finish(launched.attempt.job_id, launched.attempt.number, Reason.CANCELLED)
    launched.attempt.job.refresh_from_db()


def test_what_nobody_asked_for_so_long_is_stopped_and_says_why(client: httpx.Client, launch: Launch) -> None:
    idle, kept = launch("idle", spec=IDLE), launch("kept")
    now = timezone.now()
    assert stop_idle(now + timedelta(minutes=4)) == []
    Endpoint.objects.filter(attempt=idle.attempt).update(ready_at=now - timedelta(hours=1))
    assert ask(client, model="idle").status_code == 200  # which counts
    assert stop_idle(now + timedelta(minutes=4)) == []
    fall_asleep(idle)
    assert (idle.attempt.job.status, idle.attempt.job.reason) == (Status.CANCELLED, Reason.IDLE)
    kept.attempt.job.refresh_from_db()
    assert kept.attempt.job.status == Status.RUNNING
    states = {entry["id"]: entry["state"] for entry in client.get("/v1/models").json()["data"]}
    assert states == {"kept": "ready", "idle": "asleep"}


def test_no_replica_of_a_launch_is_idle_while_one_is_asked(launch: Launch, user: User) -> None:
    first = launch(spec=IDLE)
    other = launch(job=make_job(user, kind="launch", spec=IDLE, replica_of=first.attempt.job))
    later = timezone.now() + timedelta(minutes=6)
    Endpoint.objects.filter(attempt=other.attempt).update(asked_at=later)
    assert stop_idle(later) == []
    assert stop_idle(later + timedelta(minutes=6)) == [first.attempt.job]
    assert {job.status for job in Job.objects.all()} == {Status.CANCELLING}


def test_the_first_who_asks_wakes_it_and_all_wait_for_the_same_copy(launch: Launch, user: User) -> None:
    asleep = launch(spec=IDLE)
    fall_asleep(asleep)
    caller = Caller(make_user("grace"), None)

    async def two_wait() -> tuple[list[str], list[list[Endpoint]]]:
        words, found = [], []
        waiting = [waking.awaken(asleep.attempt.job, caller) for _ in range(2)]
        words += [str(await anext(one)) for one in waiting]
        copy = await sync_to_async(lambda: Job.objects.get(cloned_from=asleep.attempt.job))()
        attempt = await sync_to_async(make_attempt)(copy, node=asleep.attempt.node, status="dispatched")
        await sync_to_async(services.report)(copy.pk, attempt.number, phase="loading model")
        words += [str(await anext(one)) for one in waiting]
        await sync_to_async(Job.objects.filter(pk=copy.pk).update)(status=Status.RUNNING)
        await sync_to_async(mark_ready)(attempt, "http://127.0.0.1:9", "tuned")
        found += [list(await anext(one)) for one in waiting]
        return words, found

    words, found = async_to_sync(two_wait)()
    copy = Job.objects.get(cloned_from=asleep.attempt.job)
    waits, loads = f"job #{copy.pk} waits: Waits for the scheduler.", f"job #{copy.pk}: loading model"
    assert words == [waits, waits, loads, loads]
    assert [[one.attempt.job for one in endpoints] for endpoints in found] == [[copy], [copy]]
    assert (copy.owner, copy.spec) == (user, asleep.attempt.job.spec)
    assert AuditEntry.objects.get(action="wake launch").user == caller.user


def test_whoever_streams_is_told_how_far_it_is_and_then_answered(
    client: httpx.Client, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "LOOK_S", 1.0)  # SQLite in memory can't be read while this test writes
    fall_asleep(launch(spec=IDLE))
    body = {"model": "tuned", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = (line for line in answer.iter_lines() if line)
        waits = next(lines)
        copy = Job.objects.get(cloned_from__isnull=False)
        assert waits == f": job #{copy.pk} waits: Waits for the scheduler."
        launch(job=copy)
        assert "one" in next(lines)
        assert list(lines)[-1] == "data: [DONE]"


def test_a_copy_that_fails_is_not_started_over_and_over(client: httpx.Client, launch: Launch) -> None:
    asleep = launch(spec=IDLE)
    fall_asleep(asleep)
    copy = waking.wake(asleep.attempt.job, Caller(asleep.attempt.job.owner, None))
    finish(copy.pk, make_attempt(copy).number, Reason.OUT_OF_MEMORY)
    for _ in range(2):
        error = error_of(ask(client), 503)
        assert (error["code"], f"#{copy.pk}" in error["message"]) == ("model_not_ready", True)
        assert "ran out of memory" in error["message"]
    assert Job.objects.count() == 2


def test_a_launch_that_takes_too_long_is_a_503_with_when_to_ask_again(
    client: httpx.Client, launch: Launch, settings: Settings
) -> None:
    settings.LIFTOFF_WAKE_S = 0
    fall_asleep(launch(spec=IDLE))
    answer = ask(client)
    assert error_of(answer, 503)["code"] == "model_not_ready"
    assert answer.headers["Retry-After"] == "30"


def test_what_a_user_stopped_stays_stopped(client: httpx.Client, launch: Launch, user: User) -> None:
    stopped = launch(spec=IDLE)
    services.cancel(stopped.attempt.job, user)
    finish(stopped.attempt.job_id, stopped.attempt.number, Reason.CANCELLED)
    assert error_of(ask(client), 404)
    assert Job.objects.count() == 1


def end(job: Job, ran: timedelta) -> Job:
    """An attempt that crashed after so long."""
    attempt = make_attempt(job)
    Attempt.objects.filter(pk=attempt.pk).update(dispatched_at=timezone.now() - ran)
    finish(job.pk, attempt.number, Reason.CRASHED, "Exit status 1: boom")
    job.refresh_from_db()
    return job


def test_a_launch_that_crashes_comes_back_until_it_crashes_in_a_loop() -> None:
    job = make_job(kind="launch", spec={"model": make_model().name, "retry": {"max_attempts": 3, "after_crash": True}})
    waits = []
    short, long = timedelta(seconds=9), timedelta(hours=2)
    for ran in (short, short, long, short, short):
        assert end(job, ran).status == Status.QUEUED
        assert job.not_before
        waits.append(round((job.not_before - timezone.now()).total_seconds()))
    assert waits == [5, 10, 5, 5, 10]  # it backs off, and anew after it ran well
    assert end(job, timedelta(seconds=9)).status == Status.FAILED
    assert job.reason == Reason.CRASH_LOOP
    assert "3 attempts in a row" in job.detail
    assert "boom" in job.detail


def test_a_launch_is_started_again_after_a_crash_unless_it_says_otherwise() -> None:
    assert end(make_job(kind="launch"), timedelta(seconds=9)).status == Status.QUEUED
    once = end(make_job(kind="launch", spec={"retry": {"max_attempts": 1}}), timedelta(seconds=9))
    assert (once.status, once.reason) == (Status.FAILED, Reason.CRASHED)
