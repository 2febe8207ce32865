"""The REST API: what it tells of jobs, the catalog, the fleet and endpoints, and what it adds to them."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from portal.accounts.models import AuditEntry
from portal.catalog import store
from portal.jobs.models import Job
from portal.serving.models import Endpoint
from portal.telemetry.models import AttemptEvent, LogLine, MetricPoint
from tests.portal.api_client import API, Caller, refusal
from tests.portal.factories import (
    make_adapter,
    make_attempt,
    make_dataset,
    make_job,
    make_model,
    make_node,
    make_user,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return make_user("ada")


@pytest.fixture
def call(user: User) -> Caller:
    return Caller(user)


# Reading jobs


def test_jobs_are_listed_filtered_and_paged(call: Caller) -> None:
    jobs = [make_job(call.user, kind=kind, name=f"run {kind}") for kind in ("finetune", "launch", "launch")]
    make_attempt(jobs[0], status="running")
    assert [row["id"] for row in call.get("/jobs").json()["items"]] == [job.pk for job in reversed(jobs)]
    assert [row["id"] for row in call.get("/jobs", status="running").json()["items"]] == [jobs[0].pk]
    assert call.get("/jobs", kind="launch", limit=1).json()["count"] == 2
    assert [row["id"] for row in call.get("/jobs", kind="launch", limit=1, offset=1).json()["items"]] == [jobs[1].pk]
    assert [row["id"] for row in call.get("/jobs", search=f"#{jobs[2].pk}").json()["items"]] == [jobs[2].pk]
    assert "'queued'" in refusal(call.get("/jobs", status="lost"))["message"]
    assert refusal(call.get("/jobs", limit=0))["field"] == "limit"
    assert refusal(call.get("/jobs", search="a\0b"))["field"] == "search"


def test_what_is_not_there_is_answered_with_a_sentence(call: Caller) -> None:
    for path in ("/jobs/7", f"/jobs/{2**63 - 1}", "/jobs/7/events", "/jobs/7/artifacts/1/adapter", "/models/none",
                 "/datasets/none", "/datasets/none/preview", "/adapters/none", "/nodes/none", "/nowhere"):  # fmt: skip
        assert "there is no" in refusal(call.get(path), 404)["message"]
    assert refusal(call.post("/jobs/7/cancel"), 404)
    assert "whole number" in refusal(call.get("/jobs/seven"))["message"]
    assert refusal(call.get(f"/jobs/{2**63}"))["field"] == "id"


def test_a_job_tells_its_events_metrics_and_logs(call: Caller) -> None:
    job = make_job(call.user)
    attempt = make_attempt(job)
    AttemptEvent.objects.create(attempt=attempt, seq=1, at=1.0, type="phase", payload={"name": "training"})
    for step in range(1, 11):
        MetricPoint.objects.create(attempt=attempt, seq=1 + step, name="loss", step=step, at=step, value=1 / step)
    MetricPoint.objects.create(attempt=attempt, seq=2, name="grad_norm", step=1, at=1, value=0.5)
    LogLine.objects.create(attempt=attempt, seq=12, at=12.0, stream="out", text="step 10")
    LogLine.objects.create(attempt=attempt, seq=13, at=13.0, stream="out", text="done")
    path = f"/jobs/{job.pk}"

    first = call.get(f"{path}/events", limit=2).json()
    assert [event["type"] for event in first["events"]] == ["phase", "metric"]
    assert first["events"][0]["name"] == "training"
    assert first["events"][1]["values"] == {"loss": 1.0, "grad_norm": 0.5}
    rest = call.get(f"{path}/events", since=first["cursor"]).json()
    assert [event["seq"] for event in rest["events"]] == list(range(3, 14))
    assert call.get(f"{path}/events", since=rest["cursor"]).json() == {"events": [], "cursor": "1.13"}
    assert refusal(call.get(f"{path}/events", since="soon"))["field"] == "since"

    assert set(call.get(f"{path}/metrics").json()) == {"loss", "grad_norm"}
    series = call.get(f"{path}/metrics", names="loss, lr", max_points=4).json()
    assert list(series) == ["loss"]
    assert [point["step"] for point in series["loss"]] == [1, 2, 9, 10]
    assert call.get(f"{path}/metrics", attempt=2).json() == {}

    assert [line["text"] for line in call.get(f"{path}/logs").json()] == ["step 10", "done"]
    assert [line["text"] for line in call.get(f"{path}/logs", tail="true", limit=1).json()] == ["done"]
    assert [line["text"] for line in call.get(f"{path}/logs", since_seq=12, attempt=1).json()] == ["done"]


def test_artifacts_are_listed_and_their_files_downloaded(call: Caller, tmp_path: Path) -> None:
    job = make_job(call.user)
    attempt = make_attempt(job)
    base = f"store://jobs/{job.pk}/1"
    store.put(f"{base}/adapter/adapter_config.json", b"{}")
    store.put(f"{base}/adapter/adapter_model.safetensors", b"weights")
    store.put(f"{base}/manifest.json", b'{"seed": 42}')
    (tmp_path.parent / "secret").write_text("no")
    for seq, (name, uri) in enumerate(
        {"adapter": f"{base}/adapter", "manifest.json": f"{base}/manifest.json", "stray": "file:///etc/passwd"}.items()
    ):
        payload = {"name": name, "kind": "file", "uri": uri, "bytes": 9, "sha256": None}
        AttemptEvent.objects.create(attempt=attempt, seq=seq + 1, at=1.0, type="artifact", payload=payload)

    listed = {item["name"]: item for item in call.get(f"/jobs/{job.pk}/artifacts").json()}
    assert [file["name"] for file in listed["adapter"]["files"]] == ["adapter_config.json", "adapter_model.safetensors"]
    assert listed["adapter"]["files"][1]["bytes"] == 7
    assert listed["stray"]["files"] == []

    def fetch(href: str) -> Any:
        return call.client.get(href)

    weights = fetch(listed["adapter"]["files"][1]["href"])
    assert b"".join(weights) == b"weights"
    assert weights["Content-Disposition"] == 'attachment; filename="adapter_model.safetensors"'
    manifest = fetch(listed["manifest.json"]["files"][0]["href"])
    assert json.loads(b"".join(manifest)) == {"seed": 42}
    assert b"".join(fetch(f"{API}/jobs/{job.pk}/artifacts/1/manifest.json"))
    for href in ("adapter", "adapter?file=../../../secret", "adapter?file=/etc/passwd", "stray", "none"):
        assert refusal(fetch(f"{API}/jobs/{job.pk}/artifacts/1/{href}"), 404)


def test_a_job_is_cancelled_and_a_second_time_nothing_changes(call: Caller) -> None:
    job = make_job(call.user)
    assert call.post(f"/jobs/{job.pk}/cancel").json()["status"] == "cancelled"
    again = call.post(f"/jobs/{job.pk}/cancel").json()
    assert (again["status"], again["reason"], again["final"]) == ("cancelled", "cancelled", True)
    assert again["sentence"]


# The catalog, the fleet, the endpoints


def test_models_are_listed_shown_and_registered(call: Caller, tmp_path: Path) -> None:
    make_model("tiny")
    assert call.get("/models").json()["items"][0]["name"] == "tiny"
    assert call.get("/models/tiny").json()["context_length"] == 2048
    assert refusal(call.post("/models", {"name": "m", "uri": "/etc"}))["field"] == "uri"
    assert refusal(call.post("/models", {"name": "Big Model", "uri": "x"}))["field"] == "name"
    assert refusal(call.post("/models", {"name": "m"}))["message"] == "uri: this field is required."
    folder = tmp_path / "model"
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 16,
        "max_position_embeddings": 64,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    made = call.post("/models", {"name": "mine", "uri": str(folder)})
    assert made.status_code == 201, made.content
    assert (made.json()["hidden_size"], made.json()["context_length"]) == (8, 64)


ROWS = "".join(json.dumps({"text": f"text {i}", "label": "ab"[i % 2]}) + "\n" for i in range(20))


def test_a_dataset_is_uploaded_listed_and_previewed(call: Caller) -> None:
    made = call.upload("/datasets", name="mine", test_fraction="0.1", file=SimpleUploadedFile("t.jsonl", ROWS.encode()))
    assert made.status_code == 201, made.content
    assert (made.json()["train_rows"], made.json()["test_rows"], made.json()["labels"]) == (18, 2, ["a", "b"])
    assert [item["name"] for item in call.get("/datasets").json()["items"]] == ["mine"]
    assert call.get("/datasets/mine").json()["format"] == "text_label"
    assert "text" in call.get("/datasets/mine/preview").json()["rows"][0]


def test_a_dataset_is_added_by_uri(call: Caller, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    made = call.post("/datasets", {"name": "mine", "uri": str(tmp_path / "rows.jsonl"), "seed": 1})
    assert made.status_code == 201, made.content
    assert refusal(call.post("/datasets", {"name": "other", "uri": "/etc/passwd"}))["field"] == "uri"
    assert refusal(call.post("/datasets", {"name": "other"}))["field"] == "uri"


def test_bad_rows_are_named_by_number(call: Caller) -> None:
    rows = ROWS + '{"text": "no label"}\n{"text": 3, "label": "a"}\nnot json\n'
    answer = call.upload("/datasets", name="mine", file=SimpleUploadedFile("t.jsonl", rows.encode()))
    assert answer.status_code == 422
    errors = answer.json()["errors"]
    assert {error["field"] for error in errors} == {"file"}
    assert any("23" in error["message"] for error in errors)
    assert refusal(call.upload("/datasets", name="mine"))["field"] == "file"
    assert refusal(call.upload("/datasets", name="mine", seed="x", file=SimpleUploadedFile("t.jsonl", b"{}")))


def test_a_broken_multipart_body_is_answered_with_a_sentence(call: Caller) -> None:
    answer = call.client.post(f"{API}/datasets", b"x", content_type="multipart/form-data")
    assert refusal(answer)["field"] == "body"


def test_adapters_show_their_lineage(call: Caller) -> None:
    make_adapter("tuned", base_model=make_model("tiny"), dataset=make_dataset("tickets"), job_number=3)
    (row,) = call.get("/adapters").json()["items"]
    assert (row["model"], row["dataset"], row["job"]) == ("tiny", "tickets", 3)
    assert call.get("/adapters/tuned").json() == row


@pytest.fixture
def busy_node() -> Job:
    job = make_job()
    make_attempt(job, node=make_node("n1", devices=2, kind="cuda"))
    return job


def test_nodes_show_who_holds_their_devices(call: Caller, busy_node: Job) -> None:
    (node,) = call.get("/nodes").json()["items"]
    assert (node["online"], node["state"]) == (True, "active")
    assert [device["held_by"] for device in node["devices"]] == [busy_node.pk, busy_node.pk]
    assert node["links"] == [{"a": 0, "b": 1, "kind": "pcie", "detail": "PHB"}]


def test_only_staff_drain_and_resume(call: Caller, busy_node: Job) -> None:
    assert "staff" in refusal(call.post("/nodes/n1/drain"), 403)["message"]
    staff = Caller(make_user(staff=True))
    assert staff.post("/nodes/n1/drain").json()["state"] == "draining"
    assert staff.post("/nodes/n1/resume").json()["state"] == "active"
    assert AuditEntry.objects.filter(user=staff.user, target="node n1").count() == 2


def test_endpoints_are_there_while_their_job_runs(call: Caller) -> None:
    job = make_job(call.user, kind="launch")
    attempt = make_attempt(job)
    Endpoint.objects.create(attempt=attempt, url="http://127.0.0.1:9", model_name="tuned", ready_at=timezone.now())
    (row,) = call.get("/endpoints").json()["items"]
    assert (row["model"], row["alias"], row["job"]) == ("tuned", f"job-{job.pk}", job.pk)
    assert "127.0.0.1" not in json.dumps(row)
    Job.objects.filter(pk=job.pk).update(status="cancelling")
    assert call.get("/endpoints").json()["items"] == []
