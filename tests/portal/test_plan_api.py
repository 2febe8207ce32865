"""POST /api/v1/plans: an answer for what can be planned, one sentence for what can't."""

from typing import Any

import pytest

from portal.planner.answer import PlanAnswer
from tests.portal.api_client import Caller, refusal
from tests.portal.factories import make_model, make_node, make_user
from tests.portal.test_planning import CONFIG

pytestmark = pytest.mark.django_db


@pytest.fixture
def caller() -> Caller:
    return Caller(make_user())


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "llama-3-8b", "hardware": "a100-80", "workload": {"goal": "lora"}, **changes}


def test_a_plan_is_answered_line_by_line(caller: Caller) -> None:
    answer = caller.post("/plans", body())

    assert answer.status_code == 200
    said = PlanAnswer.model_validate(answer.json())
    assert said.verdict == "fits"
    assert said.model == "llama-3-8b"
    assert {"weights", "lora", "optimizer", "activations"} <= {line.name for line in said.plans[0].memory.lines}
    assert said.plans[0].why


def test_what_does_not_fit_is_an_answer_too(caller: Caller) -> None:
    answer = caller.post("/plans", body(model="gpt-3-175b", hardware="t4", workload={"goal": "infer"}))

    assert answer.status_code == 200
    assert answer.json()["verdict"] == "exceeds"
    assert answer.json()["instead"]


def test_a_pasted_config_is_planned(caller: Caller) -> None:
    answer = caller.post("/plans", body(model="ours", config=CONFIG))

    assert answer.status_code == 200
    assert (answer.json()["model"], answer.json()["verdict"]) == ("ours", "fits")


def test_the_fleet_is_the_default(caller: Caller) -> None:
    make_node("here")
    question = body(model="ours", config=CONFIG)
    del question["hardware"]

    assert caller.post("/plans", question).json()["hardware"] == "fleet"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "lama-3-8b"}, "model"),
        ({"hardware": "a100-90"}, "hardware"),
        ({"nodes": 0}, "nodes"),
        ({"workload": {"goal": "guess"}}, "workload.goal"),
        ({"workload": {"context": -1}}, "workload.context"),
        ({"workload": {"goal": "full"}, "fixed": {"quantization": "nf4"}}, "fixed.quantization"),
        ({"fixed": {"zero_stage": 4}}, "fixed.zero_stage"),
        ({"config": "llama"}, "config"),
    ],
    ids=str,
)
def test_nonsense_gets_one_sentence(caller: Caller, changes: dict[str, Any], field: str) -> None:
    assert refusal(caller.post("/plans", body(**changes)))["field"] == field


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"hidden_size": 511},
        {"num_hidden_layers": 10**12},
        {"hidden_size": "wide"},
        {"vocab_size": None, "model_type": "unheard-of"},
    ],
    ids=str,
)
def test_a_config_that_makes_no_model_gets_one_sentence(caller: Caller, changes: dict[str, Any]) -> None:
    error = refusal(caller.post("/plans", body(model="ours", config={**CONFIG, **changes})))

    assert error["field"].startswith("config")


def test_five_megabytes_get_one_sentence(caller: Caller) -> None:
    error = refusal(caller.post("/plans", body(config={**CONFIG, "note": "x" * 5_000_000})))

    assert "1,048,576" in error["message"]


def test_the_names_are_profiles_nodes_and_built_ins(caller: Caller) -> None:
    make_model("ours")
    make_node("rack-1")

    names = caller.get("/plans/names").json()

    assert names["models"][0] == "ours"
    assert "llama-2-13b" in names["models"]
    assert names["hardware"][:2] == ["fleet", "rack-1"]
    assert {"a100-80", "rtx-4090", "2x8-a100-80-25gbe"} <= set(names["hardware"])


def test_a_caller_without_a_token_is_refused(caller: Caller) -> None:
    caller.client.defaults.pop("HTTP_AUTHORIZATION")

    assert refusal(caller.post("/plans", body()), 401)["field"] == "authorization"
