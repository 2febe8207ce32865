"""Quantize jobs in the portal: what is refused and what to choose instead, what they make, and where it is launched."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from portal.asgi import application
from portal.catalog.models import ModelProfile
from portal.cli import main
from portal.cli.output import print_job
from portal.jobs import planning, services
from portal.jobs.models import Job
from portal.jobs.orders import build
from portal.jobs.scheduler import Placement
from portal.telemetry.selectors import snapshot
from tests.portal.api_client import Caller, refusal
from tests.portal.factories import make_adapter, make_attempt, make_dataset, make_job, make_model, make_node, make_user
from tests.portal.servers import serving
from tests.portal.test_preflight import tell
from workers.contract.checkpoint import Stored
from workers.contract.errors import Refused
from workers.contract.launch import LaunchSpec

pytestmark = pytest.mark.django_db(transaction=True)

LLAMA = {
    "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 2, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 512, "max_position_embeddings": 2048,
}  # fmt: skip
REPORT = {
    "before": {"bytes": 8_000_000, "perplexity": 20.5, "tokens_per_s": 11.0},
    "after": {"bytes": 3_000_000, "perplexity": 21.75, "tokens_per_s": None},
    "unmeasured": "tokens/s: only vLLM loads AWQ weights, on a GPU.",
    "calibrated_on": "128 × 512 tokens of a built-in text",
    "measured_on": "16 × 512 tokens of a held-out built-in text",
    "device": "CPU",
    "layers": 14,
    "parameters": 7_000_000,
    "took_s": 42.0,
}


@pytest.fixture
def user() -> User:
    return make_user("ada")


@pytest.fixture
def base() -> ModelProfile:
    return make_model("base", config=LLAMA)


def quantized(base: ModelProfile, name: str, layout: Any = "gptq", **columns: Any) -> ModelProfile:
    config = {**LLAMA, "quantization_config": Stored(layout, 4, 64).config}
    return make_model(name, base_model=base, config=config, **columns)


def refused(user: User, **spec: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        services.submit(user, spec)
    (error,) = caught.value.errors
    return error.field, error.message


def test_a_model_or_what_a_fine_tune_made_of_it_is_quantized(user: User, base: ModelProfile) -> None:
    make_adapter("tuned", base_model=base)
    call = Caller(user)
    job = call.post("/jobs", {"kind": "quantize", "model": "base", "group_size": 64}).json()
    assert job["name"] == "Quantize base: GPTQ, 4 bits in groups of 64"
    spec = {"kind": "quantize", "model": "base", "adapter": "tuned", "method": "awq", "group_size": 32}
    assert call.post("/jobs", spec).json()["name"] == "Quantize tuned: AWQ, 4 bits in groups of 32"
    assert [one["kind"] for one in call.get("/jobs?kind=quantize").json()["items"]] == ["quantize", "quantize"]


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({}, "group_size", "128 doesn't divide the 576 inputs of layers.self_attn.q_proj.weight; use 32 or 64."),
        ({"method": "awq", "bits": 8}, "bits", "AWQ has no layout for 8 bits; use 4, or method gptq."),
        ({"bits": 3}, "bits", "is not one of the choices"),
        ({"sequence_length": 4096, "group_size": 64}, "sequence_length", "use at most 2048."),
        ({"model": "file"}, "model", "file is a GGUF file; export it as safetensors, then quantize that."),
        ({"model": "small"}, "model", "small has GPTQ weights, which can't be quantized again; use base."),
        ({"group_size": 64, "result": "base"}, "result", "there is already a model named 'base'"),
        ({"group_size": 64, "dataset": "many"}, "dataset", "name a dataset of one file, or none."),
        ({"group_size": 64, "dataset": "tikets"}, "dataset", "did you mean tickets?"),
        ({"group_size": 64, "resources": {"devices": 2}}, "resources.devices", "takes one device, not 2; use 1."),
    ],
)
def test_what_cannot_be_quantized_is_refused_in_one_sentence(
    user: User, base: ModelProfile, spec: dict[str, Any], field: str, words: str
) -> None:
    make_model("file", source="gguf")
    quantized(base, "small")
    make_dataset("tickets")
    make_dataset("many", shard_count=3)
    at, message = refused(user, **{"kind": "quantize", "model": "base", **spec})
    assert at == field
    assert words in message


def test_what_it_makes_joins_the_catalog_with_its_lineage_and_its_figures(
    user: User, base: ModelProfile, client: Client
) -> None:
    tickets = make_dataset("tickets")
    make_adapter("tuned", base_model=base, dataset=tickets)
    spec = {
        "kind": "quantize",
        "model": "base",
        "adapter": "tuned",
        "method": "awq",
        "group_size": 64,
        "result": "mine",
    }
    job, _ = services.submit(user, spec)
    attempt = make_attempt(job, node=make_node("n"))
    made = {"name": "model", "kind": "model", "uri": "store://jobs/9/model", "bytes": 3_000_500, "sha256": "f"}
    tell(attempt, {"type": "result", "name": "quantize", "values": REPORT}, {"type": "artifact", **made})
    model = ModelProfile.objects.get(name="mine")
    assert (model.uri, model.job_number, model.disk_bytes) == ("store://jobs/9/model", job.pk, 3_000_500)
    assert (model.base_model, model.trained_on, model.parameters) == (base, tickets, base.parameters)
    assert model.dtype == "AWQ, 4 bits"

    answer = Caller(user).get("/models/mine").json()
    assert (answer["base_model"], answer["quantized"]["after"]["perplexity"]) == ("base", 21.75)
    assert Caller(user).get("/models/base").json()["quantized"] is None
    client.force_login(user)
    for page in (f"/jobs/{job.pk}/", "/models/mine/"):
        text = client.get(page).content.decode()
        for said in ("Perplexity", "20.5", "21.75", "2.9 MiB", "only vLLM loads AWQ weights", "128 × 512 tokens"):
            assert said in text, (page, said)
    assert "AWQ, 4 bits in groups of 64" in client.get("/models/mine/").content.decode()
    assert "Fine-tune this" not in client.get("/models/mine/").content.decode()
    assert '<a class="list-group-item list-group-item-action d-flex justify-content-between" href="/models/mine/">' in (
        client.get("/models/base/").content.decode()
    )


def test_a_second_attempt_may_make_what_the_first_one_made(user: User, base: ModelProfile) -> None:
    job, _ = services.submit(user, {"kind": "quantize", "model": "base", "group_size": 64, "result": "mine"})
    node = make_node("n")
    make_attempt(job, node=node)
    services.artifact_stored(job.pk, 1, kind="model", uri="store://jobs/9/model", size=8, sha256="f")
    job.refresh_from_db()
    device = node.accelerators.get()
    ((order,),) = build([(job, Placement(job.pk, node.pk, (device.pk,)))])
    assert order.attempt == 2


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"model": "small", "quantization": "nf4"}, "quantization", "GPTQ weights of 4 bits already; use none, or"),
        ({"model": "small", "engine": "llama_cpp"}, "engine", "llama.cpp does not load GPTQ weights; use auto."),
        (
            {"model": "narrow", "engine": "transformers", "resources": {"device_kind": "cuda"}},
            "engine",
            "only vLLM serves AWQ weights; use auto or vllm, or quantize base by gptq.",
        ),
        (
            {"model": "narrow"},
            "model",
            "this launch may get Device 0 of node cpu; wish for cuda, a node or labels that leave such GPUs only, or",
        ),
        (
            {"model": "narrow", "resources": {"node": "cpu"}},
            "model",
            "of node cpu; launch base with quantization nf4, or quantized by gptq.",
        ),
    ],
)
def test_quantized_weights_are_launched_where_they_can_be_read_or_not_at_all(
    user: User, base: ModelProfile, spec: dict[str, Any], field: str, words: str
) -> None:
    quantized(base, "small")
    quantized(base, "narrow", "awq")
    make_node("cpu")
    gpu = make_node("gpu", kind="cuda")
    gpu.accelerators.update(compute_capability="8.0")
    at, message = refused(user, **{"kind": "launch", **spec})
    assert at == field
    assert words in message
    error = refusal(Caller(user).post("/jobs", {"kind": "launch", **spec}))
    assert (error["field"], error["message"]) == (at, message)
    services.submit(user, {"kind": "launch", "model": "small", "resources": {"node": "cpu"}})
    services.submit(user, {"kind": "launch", "model": "narrow", "resources": {"device_kind": "cuda"}})


def test_quantized_weights_are_neither_trained_nor_exported(user: User, base: ModelProfile) -> None:
    quantized(base, "small")
    make_dataset("tickets")
    said = "model: small has GPTQ weights, which can't be"
    assert refused(user, kind="finetune", model="small", dataset="tickets")[1] == f"{said} trained; use base."
    assert refused(user, kind="export", model="small", format="gguf")[1] == f"{said} exported; use base."


def test_the_planner_knows_what_a_checkpoint_takes(base: ModelProfile) -> None:
    quantized(base, "small")
    make_node("cpu")
    weights = {}
    for model, quantization in (("base", "none"), ("small", "none"), ("base", "torchao_int4")):
        answer = planning.judge(LaunchSpec(model=model, quantization=quantization, context_length=512))
        (line,) = [line for line in answer.plans[0].memory.lines if line.name == "weights"]
        weights[model, quantization] = line.expected
        if model == "small":
            assert "in GPTQ, 4 bits in groups of 64" in line.words
            assert answer.plans[0].method.quantization == "gptq"
            assert planning.unusable(answer.plans[0], planning.of_spec(LaunchSpec(model="small"))) is None
    assert weights["small", "none"] < 0.35 * weights["base", "none"]
    # Smaller groups have more scales than what a launch quantizes while loading.
    assert weights["base", "torchao_int4"] < weights["small", "none"] < 1.1 * weights["base", "torchao_int4"]


def test_a_checkpoint_of_what_was_a_gguf_file_is_planned_by_its_columns(user: User) -> None:
    columns = {"heads": 9, "kv_heads": 3, "hidden_size": 576, "intermediate_size": 1536, "vocab_size": 512}
    exported = make_model("exported", architecture="llama", config={}, **columns)
    job, _ = services.submit(user, {"kind": "quantize", "model": "exported", "group_size": 64, "result": "small"})
    make_attempt(job, node=make_node("n"))
    services.artifact_stored(job.pk, 1, kind="model", uri="store://jobs/9/model", size=8, sha256="f")
    assert ModelProfile.objects.get(name="small").base_model == exported
    answer = planning.judge(LaunchSpec(model="small", context_length=512))
    assert "in GPTQ, 4 bits in groups of 64" in answer.plans[0].memory.lines[0].words


def test_pages_lead_to_the_form(user: User, base: ModelProfile, client: Client) -> None:
    client.force_login(user)
    job = make_job(user, spec={"model": "base", "dataset": make_dataset().name}, status="succeeded")
    make_adapter("tuned", base_model=base, job_number=job.pk)
    link = "/jobs/new/?kind=quantize&amp;model=base"
    assert f"{link}&amp;adapter=tuned" in client.get(f"/jobs/{job.pk}/").content.decode()
    assert link in client.get("/models/base/").content.decode()
    assert "Quantize a model" in client.get(link.replace("&amp;", "&")).content.decode()
    answer = client.post("/jobs/new/?kind=quantize", {"model": "base", "bits": "4", "group_size": "128"})
    assert answer.status_code == 422
    assert "128 doesn&#x27;t divide the 576 inputs" in answer.content.decode()
    asked = {"model": "base", "method": "gptq", "bits": "8", "group_size": "64", "iterations": "0"}
    assert client.post("/jobs/new/?kind=quantize", asked).status_code == 302
    spec = Job.objects.get(kind="quantize").spec
    assert (spec["bits"], spec["group_size"], spec["iterations"], spec["dataset"]) == (8, 64, 0, None)


def test_the_command_takes_a_model_or_a_fine_tune_and_shows_what_was_measured(
    user: User, base: ModelProfile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from portal.accounts.services import create_token

    job = make_job(user, spec={"model": "base", "dataset": make_dataset().name}, status="succeeded")
    make_adapter("tuned", base_model=base, job_number=job.pk)
    monkeypatch.setenv("LIFTOFF_TOKEN", create_token(user, "terminal")[1])
    with serving(application) as url:
        monkeypatch.setenv("LIFTOFF_URL", url)
        assert main(["quantize", "base", "--group-size", "64", "--result", "mine"]) == 0
        assert main(["quantize", str(job.pk), "--group-size", "64", "--method", "awq"]) == 0
        launch = make_job(user, kind="launch", spec={"model": "base"})
        assert main(["quantize", str(launch.pk)]) == 2
    said = capsys.readouterr()
    assert "Quantize base: GPTQ, 4 bits in groups of 64: queued." in said.out
    assert "Quantize tuned: AWQ, 4 bits in groups of 64: queued." in said.out
    assert f"Job #{launch.pk} made no model to quantize" in said.err
    done = Job.objects.filter(kind="quantize").latest("pk")
    tell(make_attempt(done, node=make_node("n")), {"type": "result", "name": "quantize", "values": REPORT})
    print_job(snapshot(done))
    table = capsys.readouterr().out
    assert "perplexity  20.5     21.75" in table
    assert "tokens/s    11       –" in table
    assert "only vLLM loads AWQ weights" in table
