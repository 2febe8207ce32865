"""The ring as a user of the REST API goes round it: real web server, controller, worker, child, database and Redis."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ring import load_testing, openai_client
from tests.ring.second_node import runs_on, second_node
from tests.stack import Portal, poll, running_portal

pytestmark = pytest.mark.timeout(600)

TUNE: dict[str, Any] = {
    "kind": "finetune",
    "model": "tiny",
    "dataset": "cases",
    "max_steps": 6,
    "micro_batch": 2,
    "context_length": 64,
    "learning_rate": 0.01,
    "eval_limit": 4,
}
LONG = {**TUNE, "max_steps": 100_000, "evaluate": False}


def items(portal: Portal, noun: str) -> list[dict[str, Any]]:
    page: dict[str, Any] = portal.client.get(f"/api/v1/{noun}").raise_for_status().json()
    return list(page["items"])


def running(job: dict[str, Any]) -> bool:
    return bool(job["status"] == "running" and job["phase"] == "training")


def processes_of(portal: Portal, pk: int) -> list[psutil.Process]:
    """Every process whose command line names the job's run directory."""
    runs, run = str(portal.home / "runs"), f"/{pk}-"
    found = []
    for process in psutil.process_iter():
        try:
            if any(runs in part and run in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_tune_launch_chat_load_test_and_stop(portal: Portal) -> None:
    tune = portal.submit(TUNE)
    done = portal.wait(tune, lambda job: job["status"] == "succeeded", "the fine-tune")
    assert done["sentence"] == "The job ran to its end."
    assert [change["new"] for change in done["timeline"]] == ["queued", "dispatched", "running", "succeeded"]
    assert set(done["results"]) >= {"test_before", "test_after", "training", "measured"}
    metrics = portal.client.get(f"/api/v1/jobs/{tune}/metrics").json()
    series = metrics.get("series", metrics)
    assert [point["step"] for point in series["loss"]] == [1, 2, 3, 4, 5, 6]
    assert {"grad_norm", "learning_rate", "tokens_per_s"} <= set(series)
    names = {artifact["kind"] for artifact in done["artifacts"]}
    assert {"adapter", "manifest"} <= names

    launch = portal.submit(
        {"kind": "launch", "model": "tiny", "adapter": done["adapter"], "context_length": 256, "max_tokens": 8}
    )
    portal.wait(launch, lambda job: job["endpoint"], "the launch")
    request = {"model": done["adapter"], "messages": [{"role": "user", "content": "case 1"}], "max_tokens": 4}
    answer = portal.client.post("/v1/chat/completions", json=request).raise_for_status().json()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert 0 < answer["usage"]["completion_tokens"] <= 4
    with portal.client.stream("POST", "/v1/chat/completions", json={**request, "stream": True}) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"

    openai_client.check(portal, done["adapter"], launch)
    load_testing.check(portal, launch)

    waits = portal.submit(TUNE)
    told = poll(lambda: (portal.job(waits)["queue"] or {}).get("waiting_for", ""), "a reason to wait")
    poll(lambda: f"#{launch}" in portal.job(waits)["queue"]["waiting_for"], f"the holder's name instead of {told!r}")
    portal.client.post(f"/api/v1/jobs/{waits}/cancel").raise_for_status()
    assert portal.job(waits)["status"] == "cancelled"

    portal.client.post(f"/api/v1/jobs/{launch}/cancel").raise_for_status()
    poll(lambda: portal.job(launch)["status"] == "cancelled", "the stop", 20)
    poll(lambda: not processes_of(portal, launch), "the end of its processes", 5)


def test_a_full_fine_tune_makes_a_model_that_can_be_launched(portal: Portal) -> None:
    tune = portal.submit({**TUNE, "method": "full", "adapter": "tuned-whole", "evaluate": False})
    done = portal.wait(tune, lambda job: job["status"] == "succeeded", "the fine-tune")
    assert (done["made_model"], done["adapter"]) == ("tuned-whole", None)
    made = portal.client.get("/api/v1/models/tuned-whole").raise_for_status().json()
    assert (made["base_model"], made["job"], made["dtype"]) == ("tiny", tune, "float32")

    launch = portal.submit({"kind": "launch", "model": "tuned-whole", "context_length": 256, "max_tokens": 8})
    portal.wait(launch, lambda job: job["endpoint"], "the launch")
    request = {"model": "tuned-whole", "messages": [{"role": "user", "content": "case 1"}], "max_tokens": 4}
    answer = portal.client.post("/v1/chat/completions", json=request).raise_for_status().json()
    assert 0 < answer["usage"]["completion_tokens"] <= 4
    portal.client.post(f"/api/v1/jobs/{launch}/cancel").raise_for_status()
    poll(lambda: portal.job(launch)["status"] == "cancelled", "the stop", 20)


def test_a_killed_child_ends_the_attempt_with_its_reason(portal: Portal) -> None:
    job = portal.submit(LONG)
    portal.wait(job, running, "training")
    child = max(processes_of(portal, job), key=lambda process: process.memory_info().rss)
    child.kill()
    poll(lambda: portal.job(job)["final"], "the end", 10)
    ended = portal.job(job)
    assert (ended["status"], ended["reason"]) == ("failed", "killed")
    assert "9" in ended["detail"] or "SIGKILL" in ended["detail"]
    poll(lambda: not processes_of(portal, job), "the end of its processes", 5)


def test_a_cancel_leaves_no_process(portal: Portal) -> None:
    job = portal.submit(LONG)
    portal.wait(job, running, "training")
    assert processes_of(portal, job)
    portal.client.post(f"/api/v1/jobs/{job}/cancel").raise_for_status()
    poll(lambda: not processes_of(portal, job), "the end of its processes", 6)
    poll(lambda: portal.job(job)["status"] == "cancelled", "the cancelled state", 10)


def test_a_preflight_ends_on_its_nodes_page(portal: Portal) -> None:
    (node,) = items(portal, "nodes")
    job = portal.submit({"kind": "preflight", "model": "tiny", "resources": {"node": node["name"]}})
    done = portal.wait(job, lambda job: job["status"] == "succeeded", "the preflight")
    (node,) = items(portal, "nodes")
    assert node["preflight"]["job"] == job
    assert node["preflight"]["lines"] == done["results"]["preflight"]["lines"]
    assert {"model", "packages", "disk read", "all-reduce"} <= {line["name"] for line in node["preflight"]["lines"]}
    poll(lambda: not processes_of(portal, job), "the end of its processes", 5)


def test_two_nodes_train_one_job_and_a_killed_process_of_one_ends_the_attempt_on_both(
    portal: Portal, tmp_path: Path
) -> None:
    """The last of those that share the portal: it leaves a node behind."""
    if "DATABASE_URL" in portal.env:
        pytest.skip("the database makes no difference to what nodes say to one another")
    spec = {
        **LONG,
        "checkpoint_every": 20,
        "deepspeed": {"zero_stage": 2},
        "resources": {"nodes": 2},
        "retry": {"after_kill": True, "backoff_s": 0},
    }
    with second_node(portal, tmp_path) as second:
        job = portal.submit(spec)
        # Where the first node has stored a second checkpoint, every node has stored the first.
        portal.wait(job, lambda job: _steps_since_the_second_checkpoint(portal, job["id"]) >= 3, "two checkpoints")
        first = portal.job(job)
        assert [one["node"] for one in first["team"]["nodes"]] == ["second", "test-node"]
        assert first["team"]["endpoint"].startswith("127.0.0.2:")
        assert first["team"]["nodes"][0]["settings"] == {"GLOO_SOCKET_IFNAME": "lo"}
        max(runs_on(tmp_path), key=lambda process: process.memory_info().rss).kill()
        ended = portal.wait(job, lambda job: job["attempt"] == 2 and job["attempts"][0]["finished_at"], "the next try")
        assert ended["attempts"][0]["reason"] == "killed"
        before = _losses(portal, job, 1)
        last = max(before)
        again = portal.wait(job, lambda job: last in _losses(portal, job["id"], 2), f"step {last} again")
        step, after = again["attempts"][1]["resumed_from"], _losses(portal, job, 2)
        assert step
        assert min(after) == step + 1
        assert {at: after[at] for at in range(step + 1, last + 1)} == pytest.approx(
            {at: before[at] for at in range(step + 1, last + 1)}, rel=1e-5
        )
        portal.client.post(f"/api/v1/jobs/{job}/cancel").raise_for_status()
        poll(lambda: portal.job(job)["status"] == "cancelled", f"the end on {second} as well", 20)
        poll(lambda: not processes_of(portal, job) + runs_on(tmp_path), "the end of its processes", 20)


def _steps_since_the_second_checkpoint(portal: Portal, job: int) -> int:
    events = portal.client.get(f"/api/v1/jobs/{job}/events").raise_for_status().json()["events"]
    stored = [event["step"] for event in events if event["type"] == "checkpoint"]
    return max(_losses(portal, job, 1), default=0) - stored[-1] if len(stored) > 1 else 0


def _losses(portal: Portal, job: int, attempt: int) -> dict[int, float]:
    """Step → loss."""
    answer = portal.client.get(f"/api/v1/jobs/{job}/metrics", params={"names": "loss", "attempt": attempt})
    return {point["step"]: point["value"] for point in answer.raise_for_status().json().get("loss", [])}


def test_everything_ends_with_the_parent_and_the_next_start_finds_it_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running_portal(home) as portal:
        from tests import tiny_model

        tiny_model.build(home / "tiny")
        portal.client.post("/api/v1/models", json={"name": "tiny", "uri": str(home / "tiny")}).raise_for_status()
        family = psutil.Process(portal.process.pid).children(recursive=True)
        assert len(family) >= 4
        assert portal.stop() == 0
        assert not [process for process in family if process.is_running() and process.status() != "zombie"]
    with running_portal(home) as again:
        assert [model["name"] for model in items(again, "models")] == ["tiny"]
        assert "with the password" not in (home / "up.log").read_text()


def test_a_killed_parent_leaves_nothing_running(tmp_path: Path) -> None:
    with running_portal(tmp_path / "home") as portal:
        family = psutil.Process(portal.process.pid).children(recursive=True)
        os.kill(portal.process.pid, signal.SIGKILL)
        portal.process.wait()
        poll(lambda: not [p for p in family if p.is_running() and p.status() != "zombie"], "the end of the parts", 40)
