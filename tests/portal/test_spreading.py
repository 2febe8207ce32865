"""A model that can't be spread as a job asks is refused at the field, by every door, and seen live in the panel."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from portal.jobs import planning, services
from portal.jobs.models import Job
from portal.planner.request import PlanRequest
from tests.portal.factories import make_dataset, make_model, make_node, make_user
from workers.contract.errors import Refused

pytestmark = pytest.mark.django_db

LLAMA = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 2048,
}
ODD_HEADS = {**LLAMA, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}


@pytest.fixture
def user() -> User:
    return make_user("ada")


@pytest.fixture(autouse=True)
def catalog() -> None:
    make_model("small", config=LLAMA)
    make_model("odd", config=ODD_HEADS)
    make_model("gemma", config={**LLAMA, "model_type": "gemma", "head_dim": 64})
    make_model("packed", source="gguf", config=LLAMA)
    make_dataset("cases")
    make_node("here", devices=8).accelerators.update(name="CPU")


def spec(model: str, tensor: int = 1, pipeline: int = 1, **more: Any) -> dict[str, Any]:
    parallel = {"tensor": tensor, "pipeline": pipeline}
    resources = {"devices": tensor * pipeline}
    common = {"kind": "finetune", "model": model, "dataset": "cases", "method": "full", "context_length": 128}
    return {**common, "parallel": parallel, "resources": resources, **more}


IMPOSSIBLE = [
    (spec("odd", tensor=2), "parallel.tensor", "2 tensor-parallel devices can't share the 9 attention heads of odd"),
    (spec("small", tensor=4), "parallel.tensor", "can't share the 2 key-value heads of small evenly"),
    (spec("small", pipeline=8), "parallel.pipeline", "8 pipeline stages are more than the 4 layers of small"),
    (spec("gemma", pipeline=2), "parallel.pipeline", "of the family gemma, whose layers can't be cut"),
    (spec("packed", pipeline=2), "parallel.pipeline", "packed is a GGUF file"),
]


@pytest.mark.parametrize(("asked", "field", "said"), IMPOSSIBLE)
def test_a_model_that_cannot_be_spread_so_is_refused_at_the_field(
    user: User, asked: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(Refused) as refused:
        services.submit(user, asked)
    (error,) = refused.value.errors
    assert error.field == field
    assert said in error.message
    with pytest.raises(Refused):
        planning.judge(services.parse(asked))  # type: ignore[arg-type]  # a fine-tune
    assert not Job.objects.exists()


@pytest.mark.parametrize("asked", [spec("small", tensor=2), spec("odd", tensor=3), spec("small", pipeline=4)])
def test_one_that_can_is_taken_and_judged_over_its_devices(user: User, asked: dict[str, Any]) -> None:
    job, _ = services.submit(user, asked)
    (plan, *_) = planning.judge(services.parse(job.spec)).plans  # type: ignore[arg-type]  # a fine-tune
    assert plan.method.devices == asked["resources"]["devices"]
    whole = planning.judge(services.parse(spec(asked["model"]))).plans[0]  # type: ignore[arg-type]
    assert plan.memory.expected < whole.memory.expected


def test_the_form_and_the_panel_say_why(client: Client, user: User) -> None:
    client.force_login(user)
    form = {
        "model": "odd", "dataset": "cases", "method": "full", "context_length": "128", "parallel__tensor": "2",
        "resources__devices": "2",
    }  # fmt: skip
    said = "tensor-parallel devices can&#x27;t share the 9 attention heads"
    panel = client.post("/jobs/new/plan/?kind=finetune", form)
    assert said in panel.content.decode()

    answer = client.post("/jobs/new/?kind=finetune", form)
    assert answer.status_code == 422
    assert said in answer.content.decode().split('id="error-parallel__tensor">')[1].split("</div>")[0]
    zero = client.post(
        "/jobs/new/?kind=finetune",
        form | {"model": "small", "parallel__tensor": "1", "parallel__pipeline": "2", "deepspeed__zero_stage": "3"},
    )
    assert zero.status_code == 422
    assert "use stage 0 or 1" in zero.content.decode().split('id="error-deepspeed__zero_stage">')[1].split("</div>")[0]
    assert not Job.objects.exists()


def test_a_plan_that_splits_the_model_fills_the_form(user: User) -> None:
    fixed = {"tensor_parallel": 1, "pipeline_parallel": 2, "data_parallel": 1}
    request = PlanRequest.model_validate(
        {"model": "small", "hardware": "here", "workload": {"goal": "full", "context": 128, "batch": 8}, "fixed": fixed}
    )
    plan = planning.answer(request).plans[0]
    assert planning.unusable(plan, request) is None
    values = planning.form_values(plan, request)
    assert (values["parallel__pipeline"], values["resources__devices"]) == ("2", "2")

    other = request.model_copy(update={"model": "gemma"})
    assert "can't be cut into stages" in str(planning.unusable(planning.answer(other).plans[0], other))
