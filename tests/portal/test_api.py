"""The REST API: who gets in, and what it makes of a submitted job."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings

from portal.accounts.services import create_token
from portal.jobs.models import Job
from tests.portal.api_client import API, Caller, refusal
from tests.portal.factories import (
    make_dataset,
    make_job,
    make_model,
    make_user,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return make_user("ada")


@pytest.fixture
def call(user: User) -> Caller:
    return Caller(user)


@pytest.fixture
def finetune() -> dict[str, Any]:
    make_model("tiny", context_length=512)
    make_dataset("tickets")
    return {"kind": "finetune", "model": "tiny", "dataset": "tickets"}


# Who gets in


def test_without_a_token_or_a_session_nothing_is_served() -> None:
    job = make_job()
    client = Client()
    for path in ("/jobs", f"/jobs/{job.pk}", "/models", "/datasets", "/adapters", "/nodes", "/endpoints", "/me"):
        assert refusal(client.get(API + path), 401)["field"] == "authorization"
    wrong = Client(headers={"authorization": "Bearer lift_wrong"})
    assert refusal(wrong.post(f"{API}/jobs/{job.pk}/cancel"), 401)
    job.refresh_from_db()
    assert job.status == "queued"


def test_a_session_reads_and_needs_the_csrf_token_to_change_things(finetune: dict[str, Any], user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.get(f"{API}/me").json() == {"username": "ada", "email": "", "staff": False}
    send: dict[str, Any] = {"path": f"{API}/jobs", "data": finetune, "content_type": "application/json"}
    assert "CSRF" in refusal(client.post(**send), 403)["message"]
    client.get("/admin/login/")
    client.cookies["csrftoken"] = token = "a" * 32
    assert client.post(**send, headers={"x-csrftoken": token}).status_code == 201


def test_a_token_needs_no_csrf_token(finetune: dict[str, Any], user: User) -> None:
    token = create_token(user, "t")[1]
    client = Client(enforce_csrf_checks=True, headers={"authorization": f"Bearer {token}"})
    assert client.post(f"{API}/jobs", finetune, content_type="application/json").status_code == 201


def test_a_wrong_token_is_not_saved_by_a_session(user: User) -> None:
    client = Client(headers={"authorization": "Bearer lift_wrong"})
    client.force_login(user)
    assert client.get(f"{API}/me").status_code == 401


def test_the_openapi_document_shows_the_whole_spec_and_the_docs_page_is_local() -> None:
    document = Client().get(f"{API}/openapi.json").json()
    body = document["paths"][f"{API}/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["discriminator"]["propertyName"] == "kind"
    spec = document["components"]["schemas"]["FinetuneSpec"]["properties"]
    assert spec["learning_rate"]["exclusiveMinimum"] == 0
    assert "lora" in spec
    page = Client().get(f"{API}/docs").content.decode()
    assert "swagger-ui" in page
    assert "https://" not in page
    assert "//cdn" not in page


# Submitting


def test_a_job_is_created_once_for_an_idempotency_key(call: Caller, finetune: dict[str, Any]) -> None:
    first = call.post("/jobs", finetune, key="k1")
    assert first.status_code == 201
    again = call.post("/jobs", finetune, key="k1")
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    other = call.post("/jobs", {**finetune, "seed": 7}, key="k1")
    assert "other settings" in refusal(other)["message"]
    assert call.post("/jobs", finetune).status_code == 201
    assert Job.objects.count() == 2
    assert first.json()["spec"]["lora"]["rank"] == 16
    assert first.json()["owner"] == "ada"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"learning_rate": -1}, "learning_rate", "more than 0"),
        ({"context_length": 100_000}, "context_length", "at most 512"),
        ({"model": "tinny"}, "model", "did you mean tiny"),
        ({"dataset": None}, "dataset", "not text"),
        ({"lora": {"rank": 0}}, "lora.rank", "at least 1"),
        ({"lora": []}, "lora", "object"),
        ({"kind": "dance"}, "kind", "finetune"),
        ({"name": "a\0b"}, "name", "no text"),
        ({"name": "\ud800"}, "name", "no text"),
    ],
)
def test_a_bad_value_is_answered_with_a_sentence_at_its_field(
    call: Caller, finetune: dict[str, Any], changes: dict[str, Any], field: str, words: str
) -> None:
    error = refusal(call.post("/jobs", {**finetune, **changes}))
    assert error["field"] == field
    assert words in error["message"]
    assert Job.objects.count() == 0


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", "NaN", '{"kind": "finetune", "learning_rate": NaN}', "[" * 5000, b"\xff\xfe", "1" * 5000],
)
def test_a_body_that_is_no_object_is_answered_with_a_sentence(call: Caller, body: Any) -> None:
    answer = call.client.post(f"{API}/jobs", body, content_type="application/json")
    assert refusal(answer)["field"] == "body"


def test_several_errors_come_together(call: Caller, finetune: dict[str, Any]) -> None:
    answer = call.post("/jobs", {**finetune, "epochs": "many", "seed": -1})
    assert sorted(error["field"] for error in answer.json()["errors"]) == ["epochs", "seed"]


def test_a_huge_body_is_refused(call: Caller, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    assert "larger" in refusal(call.post("/jobs", {"kind": "x" * 2000}), 413)["message"]


def test_cloning_lays_changed_values_over_the_spec(call: Caller, finetune: dict[str, Any]) -> None:
    source = call.post("/jobs", {**finetune, "adapter": "mine", "lora": {"rank": 4}}).json()
    clone = call.post(f"/jobs/{source['id']}/clone", {"lora": {"alpha": 8}, "seed": 7})
    assert clone.status_code == 201
    spec = clone.json()["spec"]
    assert (spec["lora"]["rank"], spec["lora"]["alpha"], spec["seed"]) == (4, 8, 7)
    assert spec["adapter"] is None  # it makes one of its own
    assert Job.objects.get(pk=clone.json()["id"]).cloned_from_id == source["id"]
    error = refusal(call.post(f"/jobs/{source['id']}/clone", {"learnin_rate": 1}))
    assert (error["field"], "did you mean learning_rate" in error["message"]) == ("learnin_rate", True)
    assert refusal(call.post(f"/jobs/{source['id']}/clone", {"lora": {"rank": 0}}))["field"] == "lora.rank"
