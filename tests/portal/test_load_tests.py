"""Load tests in the portal: whom one may ask, that it waits for no device, what is kept of it and where it is shown."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from portal.fleet.models import Node
from portal.jobs import loop, orders, services
from portal.jobs.models import Allocation, Attempt, Job
from portal.serving.idle import stop_idle
from portal.serving.models import Endpoint, LoadTest
from portal.serving.selectors import load_tests
from tests.portal import factories as make
from tests.portal.test_preflight import tell
from workers.contract.errors import Refused

pytestmark = pytest.mark.django_db

URL = "http://127.0.0.1:4000"


@pytest.fixture
def user() -> User:
    return make.make_user("ada")


@pytest.fixture
def client(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def running_launch(node: Node | None = None, **spec: Any) -> Attempt:
    """A launch that answers, on all devices of its node."""
    node = node or make.make_node("n1")
    devices = [{"kind": one.kind, "index": one.index, "name": one.name} for one in node.accelerators.all()]
    job = make.make_job(
        kind="launch", spec={"max_concurrency": 4, "queue": 4, "context_length": 256, "max_tokens": 16, **spec}
    )
    attempt = make.make_attempt(job, node=node, order={"devices": devices})
    Endpoint.objects.create(attempt=attempt, url=URL, model_name=job.spec["adapter"] or job.spec["model"])
    tell(attempt, {"type": "result", "name": "engine", "values": {"engine": "transformers", "why": "It is there."}})
    return attempt


def asked(launch: int, **spec: Any) -> dict[str, Any]:
    return {"kind": "load_test", "launch": launch, **spec}


def refused(user: User, spec: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        services.submit(user, spec)
    (error,) = caught.value.errors
    return error.field, error.message


def times(p99_s: float) -> dict[str, float]:
    return {"p50_s": p99_s / 4, "p95_s": p99_s / 2, "p99_s": p99_s}


def step(concurrency: int, p99_s: float, **changes: Any) -> dict[str, Any]:
    return {
        "concurrency": concurrency,
        "whole": True,
        "seconds": 10.0,
        "answers": 40 * concurrency,
        "requests_per_s": 4.0 * concurrency,
        "tokens_in_per_s": 100.0 * concurrency,
        "tokens_out_per_s": 250.0 * concurrency,
        "ttft": times(p99_s / 5),
        "tpot": times(p99_s / 50),
        "e2e": times(p99_s),
        "errors": {},
        **changes,
    }


def report(*steps: dict[str, Any], stopped: str | None = "target_missed", why: str = "It was too slow.") -> Any:
    values = {
        "at": 1_700_000_000.0,
        "took_s": 31.5,
        "asked": "11 built-in prompts",
        "target": {"figure": "e2e", "bound_ms": 500, "most_errors_percent": 1},
        "stopped": stopped,
        "why": why,
        "steps": list(steps),
    }
    return {"type": "result", "name": "load_test", "values": values}


def running_test(launch: Attempt, owner: User | None = None, **spec: Any) -> Attempt:
    """A load test of the launch under way."""
    job = make.make_job(owner, kind="load_test", spec=asked(launch.job_id, **spec))
    target = {"job": launch.job_id, "attempt": launch.number, "url": URL, "model": launch.endpoint.model_name}
    holder = make.make_node(devices=0)
    return make.make_attempt(job, node=holder, order={"target": target})


def test_it_starts_beside_the_launch_that_holds_every_device_and_is_given_its_token_but_not_its_record(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("portal.jobs.dispatch.begin", lambda orders: sent.extend(orders))
    launch = running_launch()
    waits, _ = services.submit(user, {"kind": "launch", "model": make.make_model().name})
    job, _ = services.submit(user, asked(launch.job_id))
    assert (job.name, job.spec["resources"]["node"]) == (f"Load test of launch #{launch.job_id}", "n1")
    assert loop.tick() == 1
    job.refresh_from_db()
    waits.refresh_from_db()
    assert (job.status, waits.status) == ("dispatched", "queued")
    attempt = job.attempts.get()
    assert not Allocation.objects.filter(attempt=attempt).exists()
    order = orders.rebuild(attempt)
    assert order.target is not None
    assert (order.target.job, order.target.url, order.devices, order.model) == (launch.job_id, URL, (), None)
    token = orders.serve_token(launch.job_id, launch.number)
    assert order.serve_token == token
    assert token not in str(attempt.order) + str(job.spec)


def test_a_launch_that_does_not_answer_is_refused_with_what_would_work(user: User) -> None:
    assert refused(user, asked(99)) == (
        "launch",
        "launch: there is no job #99; no launch is running, start one first.",
    )
    launch = running_launch()
    tune = make.make_job()
    assert refused(user, asked(tune.pk))[1] == (
        f"launch: job #{tune.pk} is a finetune, not a launch; running now: #{launch.job_id}."
    )
    queued = make.make_job(kind="launch")
    assert f"launch #{queued.pk} is queued, not running" in refused(user, asked(queued.pk))[1]
    Endpoint.objects.all().delete()
    assert f"launch #{launch.job_id} does not answer yet" in refused(user, asked(launch.job_id))[1]


def test_what_the_launch_could_not_take_is_refused_by_name(user: User) -> None:
    launch = running_launch().job_id
    assert refused(user, asked(launch, concurrency=9)) == (
        "concurrency",
        f"concurrency: launch #{launch} takes 8 requests at a time, 4 that it answers and 4 that wait, and refuses "
        "more; use at most 8.",
    )
    assert refused(user, asked(launch, max_tokens=256)) == (
        "max_tokens",
        "max_tokens: 256 leave no room for a prompt in the launch's context of 256 tokens; use at most 255.",
    )
    make.make_dataset("tickets")
    assert refused(user, asked(launch, dataset="ticket")) == (
        "dataset",
        "dataset: there is no dataset named 'ticket'; did you mean tickets?",
    )
    make.make_dataset("large", shard_count=3)
    assert "lies in shards" in refused(user, asked(launch, dataset="large"))[1]
    assert services.submit(user, asked(launch, dataset="tickets"))[1]


def test_a_second_one_waits_until_the_first_has_ended(user: User) -> None:
    launch = running_launch().job_id
    first, _ = services.submit(user, asked(launch), idempotency_key="once")
    assert refused(user, asked(launch))[1] == (
        f"launch: load test #{first.pk} of launch #{launch} has not ended; wait for it, or stop it first."
    )
    assert services.submit(user, asked(launch), idempotency_key="once") == (first, False)
    services.cancel(first, user)
    assert services.submit(user, asked(launch))[1]


def test_a_launch_that_ended_meanwhile_ends_the_load_test_that_waits(user: User) -> None:
    launch = running_launch()
    job, _ = services.submit(user, asked(launch.job_id))
    Job.objects.filter(pk=launch.job_id).update(status="cancelled")
    loop.tick()
    job.refresh_from_db()
    assert (job.status, job.reason) == ("failed", "invalid_input")
    assert f"launch #{launch.job_id} is cancelled, not running" in job.detail


def test_what_it_finds_is_kept_beside_what_the_launch_was_made_of() -> None:
    launch = running_launch(make.make_node("n1", devices=2), quantization="int8")
    test = running_test(launch)
    tell(test, report(step(1, 0.2), stopped=None, why=""))
    assert [one.concurrency for one in LoadTest.objects.get().found.steps] == [1]
    tell(test, report(step(1, 0.2), step(2, 0.3), step(4, 0.9)))
    kept = LoadTest.objects.get()
    assert (kept.launch_id, kept.engine, kept.quantization) == (launch.job_id, "transformers", "int8")
    assert (kept.model, kept.devices) == (launch.job.spec["model"], "Device 0, Device 1")
    best = kept.found.best
    assert best is not None
    assert (best.concurrency, best.requests_per_s) == (2, 8.0)
    broken = report(step(1, -1))
    tell(test, broken, {"type": "phase", "name": "on"})
    assert LoadTest.objects.get().found.steps == kept.found.steps
    assert list(load_tests(model=kept.model)) == list(load_tests(launch=launch.job_id)) == [kept]
    assert not load_tests(model="another").exists()


def test_it_keeps_its_launch_awake_until_so_long_after_its_end() -> None:
    launch = running_launch(idle_stop_minutes=10)
    now = timezone.now()
    Endpoint.objects.update(ready_at=now - timedelta(hours=1))
    test = running_test(launch)
    assert stop_idle(now) == []
    Job.objects.filter(pk=test.job_id).update(status="succeeded", finished_at=now - timedelta(minutes=9))
    assert stop_idle(now) == []
    assert stop_idle(now + timedelta(minutes=2)) == [launch.job]
