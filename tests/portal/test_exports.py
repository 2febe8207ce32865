"""Exports: of a finished fine-tune or an adapter, by page, REST and CLI; what they are refused for, what they make."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from portal.asgi import application
from portal.catalog import store
from portal.catalog.models import Adapter, ModelProfile
from portal.cli import main
from portal.jobs import services
from portal.jobs.models import Job
from portal.jobs.orders import build
from portal.jobs.scheduler import Placement
from portal.telemetry.selectors import snapshot
from tests.portal.api_client import Caller, refusal
from tests.portal.factories import make_adapter, make_attempt, make_dataset, make_job, make_model, make_node, make_user
from tests.portal.servers import serving
from workers.contract.errors import Refused

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def user() -> User:
    return make_user("ada")


@pytest.fixture
def tuned(user: User) -> Adapter:
    """An adapter that a finished fine-tune made."""
    base = make_model("base", config={"model_type": "llama"})
    tickets = make_dataset("tickets")
    job = make_job(user, spec={"model": "base", "dataset": "tickets"}, status="succeeded")
    return make_adapter("tuned", base_model=base, dataset=tickets, job_number=job.pk)


def test_what_a_fine_tune_made_is_exported_by_its_number(user: User, tuned: Adapter) -> None:
    call = Caller(user)
    job = call.post(f"/jobs/{tuned.job_number}/export", {"format": "gguf", "result": "mine"}, key="k").json()
    assert job["name"] == "Export tuned as gguf"
    spec = {"kind": "export", "model": "base", "adapter": "tuned", "format": "gguf", "result": "mine"}
    assert job["spec"].items() >= spec.items()
    assert call.post(f"/jobs/{tuned.job_number}/export", {"format": "gguf", "result": "mine"}, key="k").json() == job


def test_the_whole_model_of_a_fine_tune_is_exported(user: User) -> None:
    make_model("base")
    job = make_job(user, spec={"model": "base", "method": "full"}, status="succeeded")
    made = make_model("whole", job_number=job.pk, config={"model_type": "llama"})
    call = Caller(user)
    spec = call.post(f"/jobs/{job.pk}/export", {"format": "gguf"}).json()["spec"]
    assert (spec["model"], spec["adapter"]) == (made.name, None)
    error = refusal(call.post(f"/jobs/{job.pk}/export"))
    assert error["message"] == "format: whole is safetensors already; use the other, or name an adapter."


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"status": "running"}, "is running; export its result once it has succeeded."),
        ({"status": "failed"}, "ended as failed, so it has no result"),
        ({"status": "succeeded"}, "made is not in the catalog any more"),
        ({"kind": "launch", "status": "cancelled"}, "is of kind launch, which trains nothing"),
    ],
)
def test_a_job_without_a_result_is_refused(user: User, columns: dict[str, Any], words: str) -> None:
    job = make_job(user, **columns)
    error = refusal(Caller(user).post(f"/jobs/{job.pk}/export", {"format": "gguf"}))
    assert error["field"] == "id"
    assert words in error["message"]
    assert not Job.objects.filter(kind="export").exists()


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"model": "other", "format": "gguf"}, "format", "a gemma model can't be written as GGUF here, only llama."),
        ({"model": "scaled", "format": "gguf"}, "format", "its positions are scaled (yarn)"),
        ({"model": "other", "adapter": "tuned"}, "adapter", "was trained on base, not on other"),
        ({"model": "base", "adapter": "tunde"}, "adapter", "there is no adapter named 'tunde'; did you mean tuned?"),
        ({"model": "base", "adapter": "tuned", "result": "other"}, "result", "already a model named 'other'"),
        ({"model": "base", "format": "onnx"}, "format", '"onnx" is not one of the choices'),
        ({"model": "base", "adapter": "tuned", "resources": {"devices": 2}}, "resources.devices", "takes one device"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_sentence(
    user: User, tuned: Adapter, spec: dict[str, Any], field: str, words: str
) -> None:
    make_model("other", config={"model_type": "gemma"})
    make_model("scaled", config={"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 4}})
    with pytest.raises(Refused) as refused:
        services.submit(user, {"kind": "export", **spec})
    (error,) = refused.value.errors
    assert error.field == field
    assert words in error.message


def test_what_is_made_of_files_that_are_gone_is_refused_by_page_rest_and_command(
    user: User, tuned: Adapter, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from portal.accounts.services import create_token

    gone = "the files of base are gone, there is nothing at store://models/base any more"
    store.put("store://models/other/config.json", b"{}")
    store.put(f"{tuned.uri}/adapter_config.json", b"{}")
    tune = {"kind": "finetune", "model": "base", "dataset": "tickets"}
    export = {"kind": "export", "model": "base", "adapter": "tuned", "format": "gguf"}
    call = Caller(user)
    client.force_login(user)
    for spec in (tune, export):
        error = refusal(call.post("/jobs", spec))
        assert error["field"] == "model"
        assert gone in error["message"]
        answer = client.post(f"/jobs/new/?kind={spec['kind']}", spec)
        assert answer.status_code == 422
        assert gone.removeprefix("the ") in answer.content.decode()
    monkeypatch.setenv("LIFTOFF_TOKEN", create_token(user, "terminal")[1])
    with serving(application) as url:
        monkeypatch.setenv("LIFTOFF_URL", url)
        assert main(["export", str(tuned.job_number), "--format", "gguf"]) == 2
    assert gone in capsys.readouterr().err
    assert not Job.objects.exclude(pk=tuned.job_number).exists()

    store.put("store://models/base/config.json", b"{}")
    assert call.post("/jobs", export).status_code == 201
    store.remove(tuned.uri)
    error = refusal(call.post("/jobs", {**export, "result": "mine"}))
    assert (error["field"], "the files of tuned are gone" in error["message"]) == ("adapter", True)


@pytest.mark.parametrize(
    ("name", "kind", "source"), [("model", "model", "safetensors"), ("model.gguf", "file", "gguf")]
)
def test_what_it_writes_joins_the_catalog_with_its_lineage(
    user: User, tuned: Adapter, client: Client, name: str, kind: str, source: str
) -> None:
    spec = {"kind": "export", "model": "base", "adapter": "tuned", "format": source, "result": "mine"}
    job, _ = services.submit(user, spec)
    make_attempt(job, node=make_node("n"))
    for _ in range(2):  # a second word changes nothing
        services.artifact_stored(job.pk, 1, kind=kind, uri=f"store://jobs/9/{name}", size=8, sha256="f")
    made = ModelProfile.objects.get(name="mine")
    assert (made.source, made.uri, made.job_number) == (source, f"store://jobs/9/{name}", job.pk)
    assert made.base_model
    assert made.trained_on
    assert (made.base_model.name, made.trained_on.name) == ("base", "tickets")
    assert snapshot(job)["made_model"] == "mine"
    client.force_login(user)
    assert "in the catalog as" in client.get(f"/jobs/{job.pk}/").content.decode()


def test_a_second_attempt_may_make_what_the_first_one_made(user: User, tuned: Adapter) -> None:
    job, _ = services.submit(user, {"kind": "export", "model": "base", "adapter": "tuned", "result": "mine"})
    node = make_node("n")
    make_attempt(job, node=node, status="running")
    services.artifact_stored(job.pk, 1, kind="model", uri="store://jobs/9/model", size=8, sha256="f")
    job.refresh_from_db()
    device = node.accelerators.get()
    ((order,),) = build([(job, Placement(job.pk, node.pk, (device.pk,)))])
    assert order.adapter
    assert (order.attempt, order.adapter.uri) == (2, tuned.uri)


def test_pages_lead_to_the_form(user: User, tuned: Adapter, client: Client) -> None:
    client.force_login(user)
    link = "/jobs/new/?kind=export&amp;model=base&amp;adapter=tuned"
    for page in (f"/jobs/{tuned.job_number}/", "/adapters/"):
        assert link in client.get(page).content.decode(), page
    running = make_job(user, spec={"model": "base", "dataset": "tickets"}, status="running")
    assert "kind=export" not in client.get(f"/jobs/{running.pk}/").content.decode()

    form = client.get(link.replace("&amp;", "&")).content.decode()
    assert "Export a model" in form
    assert '<option value="tuned" selected>tuned (on base)</option>' in form
    answer = client.post("/jobs/new/?kind=export", {"model": "base", "adapter": "tuned", "format": "gguf"})
    assert answer.status_code == 302
    assert Job.objects.get(kind="export").spec["format"] == "gguf"


def test_the_command_takes_a_job_or_an_adapter(
    user: User, tuned: Adapter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from portal.accounts.services import create_token

    monkeypatch.setenv("LIFTOFF_TOKEN", create_token(user, "terminal")[1])
    with serving(application) as url:
        monkeypatch.setenv("LIFTOFF_URL", url)
        assert main(["export", str(tuned.job_number), "--format", "gguf"]) == 0
        assert main(["export", "tuned", "--result", "mine"]) == 0
        assert main(["export", "tunde"]) == 2
    said = capsys.readouterr()
    assert "Export tuned as gguf: queued." in said.out
    assert "Export tuned as safetensors: queued." in said.out
    assert "tunde" in said.err
