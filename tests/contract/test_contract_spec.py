"""Specs and orders: round trips, refusals, and what a form needs to know of each field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from workers.contract.base import SPEC_VERSION, UnknownVersion
from workers.contract.deepspeed import DeepSpeedSettings
from workers.contract.errors import from_pydantic
from workers.contract.export import ExportSpec
from workers.contract.finetune import CheckpointSettings, DataSettings, FinetuneSpec, LoraSettings
from workers.contract.launch import LaunchSpec
from workers.contract.load_test import LoadTarget, LoadTestSpec, NoDevices
from workers.contract.numerics import NumericsSettings
from workers.contract.objectives import DpoSettings
from workers.contract.order import Order
from workers.contract.parallel import ParallelSettings
from workers.contract.quantize import QuantizeSpec
from workers.contract.resources import Resources, RetryPolicy
from workers.contract.spec import JOB_SPEC, PreflightSpec

FINETUNE = {"kind": "finetune", "model": "tiny", "dataset": "tickets"}
LAUNCH = {"kind": "launch", "model": "tiny"}
PREFLIGHT = {"kind": "preflight", "resources": {"node": "n1"}}
LOAD_TEST = {"kind": "load_test", "launch": 5}
ORDER = {
    "job": 7,
    "attempt": 1,
    "token": "ab12",
    "node": "n1",
    "spec": FINETUNE,
    "model": {"name": "tiny", "uri": "store://models/tiny"},
    "devices": [{"kind": "cuda", "index": 0}],
    "result_uri": "store://jobs/7-1",
}
FORM_MODELS = [
    FinetuneSpec,
    LaunchSpec,
    PreflightSpec,
    ExportSpec,
    QuantizeSpec,
    LoadTestSpec,
    LoadTarget,
    NoDevices,
    LoraSettings,
    DataSettings,
    CheckpointSettings,
    DeepSpeedSettings,
    DpoSettings,
    NumericsSettings,
    ParallelSettings,
    Resources,
    RetryPolicy,
]
NOT_ASKED = {"kind", "spec_version"}


def problems(document: dict[str, Any]) -> list[Any]:
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python(document)
    return caught.value.errors()


@pytest.mark.parametrize("document", [FINETUNE, LAUNCH, PREFLIGHT, LOAD_TEST])
def test_a_minimal_spec_survives_json(document):
    spec = JOB_SPEC.validate_python(document)
    assert spec.spec_version == SPEC_VERSION
    assert JOB_SPEC.validate_json(spec.model_dump_json()) == spec


@given(
    rank=st.integers(1, 512),
    learning_rate=st.floats(1e-12, 1, allow_nan=False),
    betas=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
    zero_stage=st.none() | st.sampled_from([0, 1, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
    labels=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_any_finetune_survives_json(rank, learning_rate, betas, zero_stage, seed, labels):
    document = {
        **FINETUNE,
        "learning_rate": learning_rate,
        "beta1": betas[0],
        "beta2": betas[1],
        "seed": seed,
        "lora": {"rank": rank},
        "deepspeed": None if zero_stage is None else {"zero_stage": zero_stage},
        "resources": {"labels": labels},
    }
    spec = JOB_SPEC.validate_json(json.dumps(document))
    assert JOB_SPEC.validate_json(spec.model_dump_json()) == spec
    assert spec.learning_rate == learning_rate


def test_an_order_survives_json():
    order = Order.model_validate(ORDER)
    assert Order.model_validate_json(order.model_dump_json()) == order
    assert isinstance(order.spec, FinetuneSpec)


@pytest.mark.parametrize("version", [0, 2, 999])
def test_another_version_is_refused_with_a_reason(version):
    for document in ({**FINETUNE, "spec_version": version}, {**LAUNCH, "spec_version": version}):
        (problem,) = problems(document)
        assert isinstance(problem["ctx"]["error"], UnknownVersion)
        assert f"{version} is not a version this Liftoff knows; it speaks version 1" in problem["msg"]
    with pytest.raises(ValidationError, match="not a version"):
        Order.model_validate({**ORDER, "spec_version": version})


def test_unknown_fields_are_ignored_at_every_depth():
    spec = JOB_SPEC.validate_python(
        {**FINETUNE, "later": 1, "lora": {"rank": 4, "later": 1}, "resources": {"later": 1}}
    )
    assert "later" not in spec.model_dump_json()
    assert Order.model_validate({**ORDER, "later": 1}) == Order.model_validate(ORDER)


@pytest.mark.parametrize("kind", ["dream", "", None])
def test_an_unknown_kind_is_refused(kind):
    (problem,) = problems({**FINETUNE, "kind": kind})
    assert problem["type"].startswith("union_tag")


@pytest.mark.parametrize(
    ("base", "field", "value"),
    [
        (FINETUNE, "learning_rate", -1),
        (FINETUNE, "learning_rate", 0),
        (FINETUNE, "learning_rate", 1.5),
        (FINETUNE, "learning_rate", float("nan")),
        (FINETUNE, "epochs", 0),
        (FINETUNE, "epochs", float("inf")),
        (FINETUNE, "micro_batch", 0),
        (FINETUNE, "context_length", 7),
        (FINETUNE, "beta1", 1),
        (FINETUNE, "seed", -1),
        (FINETUNE, "schedule", "sawtooth"),
        (FINETUNE, "precision", "fp4"),
        (LAUNCH, "precision", "fp8"),
        (FINETUNE, "objective", "orpo"),
        (FINETUNE, "model", "../etc"),
        (FINETUNE, "model", "Upper"),
        (FINETUNE, "model", "tiny\n"),
        (FINETUNE, "dataset", ""),
        (LAUNCH, "temperature", -0.1),
        (LAUNCH, "temperature", 2.1),
        (LAUNCH, "top_p", 0),
        (LAUNCH, "quantization", "int3"),
        (LAUNCH, "max_tokens", 0),
    ],
)
def test_values_out_of_bounds_are_refused_at_their_field(base, field, value):
    document = {**base, field: value}
    assert [problem["loc"][-1] for problem in problems(document)] == [field]
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python(document)
    (refusal,) = from_pydantic(caught.value)
    assert refusal.field == field
    assert refusal.message.startswith(f"{field}: ")
    assert refusal.message.endswith(".")


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"method": "partial"}, "trained_layers", "name some"),
        ({"trained_layers": "lm_head"}, "trained_layers", "or use method partial"),
        ({"method": "qlora", "deepspeed": {"zero_stage": 3}}, "deepspeed.zero_stage", "use stage 2 or less"),
        ({"objective": "dpo", "packing": True}, "packing", "leave packing off"),
        ({"dpo": {"loss_type": "exo_pair"}}, "dpo.loss_type", "set dpo.label_smoothing, e.g. to 0.001."),
        ({"dpo": {"label_smoothing": 0.1}}, "dpo.label_smoothing", "has no meaning with loss sigmoid; use 0, or"),
        ({"dpo": {"loss_type": "orpo"}}, "dpo.loss_type", "is not one of the choices"),
        ({"precision": "fp8", "method": "qlora"}, "precision", "can't be combined with the 4-bit weights of qlora"),
        ({"precision": "fp8", "deepspeed": {}}, "precision", "can't be combined with DeepSpeed"),
        ({"numerics": {"fused_optimizer": "on"}, "deepspeed": {}}, "numerics.fused_optimizer", "use auto or off"),
        ({"method": "adapters"}, "method", "is not one of the choices; use 'lora', 'qlora', 'full' or 'partial'."),
    ],
)
def test_a_method_and_what_it_needs_go_together(change, field, said):
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python({**FINETUNE, **change})
    (refusal,) = from_pydantic(caught.value)
    assert refusal.field == field
    assert said in refusal.message


def test_an_answer_must_leave_room_for_a_prompt():
    JOB_SPEC.validate_python({**LAUNCH, "context_length": 100, "max_tokens": 99})
    (problem,) = problems({**LAUNCH, "context_length": 100, "max_tokens": 100})
    assert "max_tokens: 100 leaves no room for a prompt" in problem["msg"]
    assert "use at most 99" in problem["msg"]


def test_a_preflight_names_its_node_and_may_go_without_a_model():
    assert JOB_SPEC.validate_python(PREFLIGHT).model is None
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python({"kind": "preflight", "model": "tiny"})
    (refusal,) = from_pydantic(caught.value)
    assert (refusal.field, refusal.message) == (
        "resources.node",
        "resources.node: a preflight checks one node; name it.",
    )
    order = Order.model_validate({**ORDER, "spec": PREFLIGHT, "model": None})
    assert Order.model_validate_json(order.model_dump_json()) == order


@pytest.mark.parametrize("token", ["../x", "a b", "x" * 65, "a-b"])
def test_a_token_is_letters_and_digits(token):
    with pytest.raises(ValidationError, match="token"):
        Order.model_validate({**ORDER, "token": token})


@pytest.mark.parametrize("model", FORM_MODELS)
def test_every_field_a_form_shows_has_a_title(model: type[BaseModel]):
    untitled = [
        name
        for name, field in model.model_fields.items()
        if name not in NOT_ASKED and field.title is None and not is_group(field.annotation)
    ]
    assert untitled == []


@pytest.mark.parametrize("model", FORM_MODELS)
def test_every_number_a_form_shows_has_two_bounds(model: type[BaseModel]):
    unbounded = []
    for name, schema in model.model_json_schema()["properties"].items():
        number = schema.get("type") in ("integer", "number")
        low = "minimum" in schema or "exclusiveMinimum" in schema
        high = "maximum" in schema or "exclusiveMaximum" in schema
        if number and name not in NOT_ASKED and "enum" not in schema and not (low and high):
            unbounded.append(name)
    assert unbounded == []


def test_the_form_check_sees_every_model_of_a_job():
    definitions = set(JOB_SPEC.json_schema()["$defs"])
    assert definitions == {model.__name__ for model in FORM_MODELS}


def is_group(annotation: Any) -> bool:
    """A field that is a model of its own: the form shows its fields instead."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
