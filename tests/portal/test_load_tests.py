"""Load tests in the portal: whom one may ask, that it waits for no device, what is kept of it and where it is shown."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from portal.accounts.services import create_token
from portal.asgi import application
from portal.cli import main
from portal.cli.output import print_job
from portal.fleet.models import Node
from portal.jobs import loop, orders, services
from portal.jobs.models import Allocation, Attempt, Job
from portal.serving.idle import stop_idle
from portal.serving.models import Endpoint, LoadTest
from portal.serving.selectors import load_tests
from portal.telemetry.selectors import snapshot
from tests.portal import factories as make
from tests.portal.api_client import Caller, refusal
from tests.portal.servers import serving
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


def text(answer: Any) -> str:
    return str(answer.content.decode())


def test_the_form_is_reached_from_the_page_of_a_launch_that_answers(client: Client, user: User) -> None:
    form = text(client.get("/jobs/new/?kind=load_test"))
    assert 'There is no running launch yet; <a href="/jobs/new/?kind=launch">start one</a>' in form
    launch = running_launch()
    link = f"/jobs/new/?kind=load_test&amp;launch={launch.job_id}"
    assert link in text(client.get(f"/jobs/{launch.job_id}/"))
    form = text(client.get(link.replace("&amp;", "&")))
    assert f'<option value="{launch.job_id}" selected>#{launch.job_id} {launch.job.name}</option>' in form
    assert "resources__device_kind" not in form
    assert "Will it fit?" not in form
    sent = {
        "launch": str(launch.job_id),
        "concurrency": "2",
        "prompts": "One\r\n\r\nTwo",
        "target__figure": "ttft",
        "target__bound_ms": "0",
    }
    shown = client.post("/jobs/new/?kind=load_test", sent)
    assert shown.status_code == 422
    assert "is out of range; it must be more than 0." in text(shown)
    answer = client.post("/jobs/new/?kind=load_test", {**sent, "target__bound_ms": "250"})
    job = Job.objects.get(kind="load_test")
    assert answer["Location"] == f"/jobs/{job.pk}/"
    assert job.owner == user
    assert (job.spec["prompts"].splitlines(), job.spec["target"]["figure"]) == (["One", "", "Two"], "ttft")
    assert "They come with the first step" in text(client.get(f"/jobs/{job.pk}/"))
    assert '<option value="load_test" selected>load test</option>' in text(client.get("/jobs/?kind=load_test"))


def test_its_page_draws_the_steps_against_the_target(client: Client) -> None:
    test = running_test(running_launch())
    tell(test, report(step(1, 0.2), stopped=None, why=""))
    page = text(client.get(f"/jobs/{test.job_id}/"))
    assert page.count("<circle") == 1
    assert "goes on" in page
    missing = step(4, 0.9, answers=20, errors={"timeout": 2, "full": 1})
    tell(test, report(step(1, 0.2), step(2, 0.3), missing, why="At 4 at a time it was too slow."))
    for part in ("", "?part=state"):
        page = text(client.get(f"/jobs/{test.job_id}/{part}"))
        assert page.count("<circle") == 3
        assert "4 at a time: 16 requests/s, P99 900 ms" in page
        assert "8 requests/s" in page  # the highest rate
        assert "P99 of the end-to-end latency below 500 ms" in page
        assert "It ended because the target was missed. At 4 at a time it was too slow." in page
        assert "cut short" not in page
        assert "2 timeout, 1 full" in page
        assert "Of fewer than 100 answers the P99 is the slowest one." in page
        assert "straight to the engine, past the portal's gateway" in page


def test_nothing_met_no_answer_and_a_step_cut_short_are_drawn_as_well(client: Client) -> None:
    test = running_test(running_launch())
    nothing = {"ttft": None, "tpot": None, "e2e": None, "answers": 0, "requests_per_s": 0.0}
    tell(test, report(step(1, 3.0, whole=False), step(2, 1.0, **nothing, errors={"broken": 5}), stopped="cancelled"))
    page = text(client.get(f"/jobs/{test.job_id}/"))
    assert page.count("<circle") == 1
    assert "it was stopped" in page
    assert 'data-status="cut"' in page
    assert "cut short" in page
    assert "none</dd>" in page


def test_launches_are_compared_on_the_pages_of_launch_and_model(client: Client) -> None:
    launch = running_launch(quantization="nf4")
    other = running_launch(make.make_node("n2"), model=launch.job.spec["model"])
    assert "None yet." in text(client.get(f"/jobs/{launch.job_id}/"))
    tests = [running_test(one) for one in (launch, other)]
    tell(tests[0], report(step(1, 0.2), step(2, 0.9)))
    tell(tests[1], report(step(1, 0.7)))
    page = text(client.get(f"/jobs/{launch.job_id}/"))
    assert f"/jobs/{tests[0].job_id}/" in page
    assert f"/jobs/{tests[1].job_id}/" not in page
    assert "<td>transformers</td><td>nf4</td><td>Device 0</td>" in page
    assert "<strong>4</strong>" in page
    page = text(client.get(f"/models/{launch.job.spec['model']}/"))
    assert all(f"/jobs/{test.job_id}/" in page for test in tests)
    assert '<td class="num">none</td>' in page


def test_rest_submits_lists_and_tells_them(user: User) -> None:
    call = Caller(user)
    launch = running_launch()
    assert refusal(call.post("/jobs", asked(launch.job_id, target={"bound_ms": -1})))["field"] == "target.bound_ms"
    assert refusal(call.post("/jobs", asked(77)))["field"] == "launch"
    assert refusal(call.post("/jobs", {"kind": "load_test"}))["message"] == "launch: this field is required."
    made = call.post("/jobs", asked(launch.job_id))
    assert (made.status_code, made.json()["spec"]["resources"]["node"]) == (201, "n1")
    assert call.get("/jobs", kind="load_test").json()["count"] == 1
    test = running_test(launch)
    tell(test, report(step(1, 0.2), step(2, 0.9)))
    assert call.get(f"/jobs/{test.job_id}").json()["results"]["load_test"]["stopped"] == "target_missed"
    for query in ({}, {"launch": launch.job_id}, {"model": launch.job.spec["model"]}):
        (item,) = call.get("/load-tests", **query).json()["items"]
        assert (item["job"], item["launch"], item["engine"]) == (test.job_id, launch.job_id, "transformers")
        assert (item["best"]["concurrency"], len(item["report"]["steps"])) == (1, 2)
    assert call.get("/load-tests", model="other").json()["items"] == []


def test_the_terminal_shows_a_row_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    test = running_test(running_launch())
    tell(test, report(step(1, 0.2), step(2, 0.9)))
    print_job(snapshot(Job.objects.get(pk=test.job_id)))
    said = capsys.readouterr().out
    assert "target: e2e p99 below 500 ms" in said
    assert "highest rate that meets the target: 4 requests/s at 1 at a time. It was too slow." in said


@pytest.mark.django_db(transaction=True)
def test_the_terminal_submits_one(
    user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    launch = running_launch()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("One\nTwo\n")
    monkeypatch.setenv("LIFTOFF_TOKEN", create_token(user, "terminal")[1])
    with serving(application) as url:
        monkeypatch.setenv("LIFTOFF_URL", url)
        asks = ["load-test", str(launch.job_id), "--concurrency", "4", "--figure", "tpot", "--below-ms", "50"]
        assert main([*asks, "--prompts", str(prompts)]) == 0
        assert main([*asks, "--prompts", str(tmp_path / "none.txt")]) == 2
    job = Job.objects.get(kind="load_test")
    assert (job.spec["concurrency"], job.spec["prompts"]) == (4, "One\nTwo\n")
    assert job.spec["target"] == {"figure": "tpot", "bound_ms": 50.0, "most_errors_percent": 1.0}
    said = capsys.readouterr()
    assert f"Job #{job.pk} Load test of launch #{launch.job_id}: queued." in said.out
    assert "--prompts: " in said.err
