"""Names of models and hardware, jobs judged before they run, and what finished attempts teach the next plan."""

from typing import Any

import pytest
from pytest_django.fixtures import Settings

from portal.fleet.models import Accelerator
from portal.jobs import measurements, planning, services
from portal.jobs.models import Attempt, Measurement
from portal.jobs.scheduler import Placement
from portal.planner import models as built_in
from portal.planner.answer import PlanAnswer
from portal.planner.request import PlanRequest
from portal.telemetry.record import record
from tests.portal.factories import GIB, make_attempt, make_dataset, make_job, make_model, make_node
from workers.contract.errors import Refused
from workers.contract.events import Envelope, Result
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec

pytestmark = pytest.mark.django_db

CONFIG = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
MEASURED = {
    "device": "Device 0",
    "basis": "rss",
    "peak_bytes": 900 * 2**20,
    "baseline_bytes": 500 * 2**20,
    "sequence_tokens": 96,
    "step_tokens": 320.0,
    "step_s": 1.5,
    "tokens_per_s": 213.0,
    "steps": 20,
}


def ask(model: str, hardware: str = "a100-80", **workload: Any) -> PlanRequest:
    return PlanRequest.model_validate({"model": model, "hardware": hardware, "workload": workload})


def sentence(refused: pytest.ExceptionInfo[Refused], field: str) -> str:
    (error,) = refused.value.errors
    assert error.field == field
    return error.message


# Models


def test_a_profile_goes_before_a_built_in_model_of_its_name() -> None:
    make_model("llama-3-8b", config=CONFIG)

    shape = planning.resolve_model("llama-3-8b")

    assert shape.hidden == 512
    assert planning.model_names().count("llama-3-8b") == 1
    assert planning.model_names()[0] == "llama-3-8b"


def test_a_gguf_profile_is_planned_by_its_header() -> None:
    make_model(
        "starter", source="gguf", config={}, architecture="llama", layers=30, hidden_size=576, heads=9, kv_heads=3,
        intermediate_size=1536, vocab_size=49152, context_length=8192, tied_embeddings=True,
    )  # fmt: skip

    assert planning.resolve_model("starter").parameters == 134_515_008


def test_a_pasted_config_goes_before_any_name() -> None:
    shape = planning.resolve_model("mine", CONFIG)

    assert (shape.name, shape.depth, shape.hidden) == ("mine", 4, 512)


def test_an_unknown_model_gets_the_nearest_of_profiles_and_built_in_names() -> None:
    make_model("llama-3-9bx", config=CONFIG)

    with pytest.raises(Refused) as refused:
        planning.resolve_model("llama-3-9b")

    words = sentence(refused, "model")
    assert "llama-3-9bx" in words
    assert "llama-3-8b" in words


def test_a_profile_that_says_too_little_is_refused_by_its_name() -> None:
    make_model("riddle", source="gguf", config={}, architecture="llama", layers=2, hidden_size=64)

    with pytest.raises(Refused) as refused:
        planning.resolve_model("riddle")

    assert "'riddle' can't be planned" in sentence(refused, "model")


# Hardware


def test_the_fleet_is_what_is_online_and_not_draining_with_like_nodes_together() -> None:
    for name in ("a", "b"):
        node = make_node(name, devices=2, kind="cuda", ram_bytes=128 * GIB)
        node.accelerators.update(name="NVIDIA A100-SXM4-80GB", memory_bytes=81_920 * 2**20, compute_capability="8.0")
    make_node("cpu-only", cores=4)
    make_node("away", kind="cuda", online=False)
    make_node("tired", kind="cuda", state="draining")

    groups = {group.names: group for group in planning.resolve_hardware("fleet").groups}

    assert set(groups) == {("a", "b"), ("cpu-only",)}
    pair = groups["a", "b"]
    assert (pair.device.name, pair.nodes, pair.devices, pair.ram_bytes) == ("a100-80", 2, 2, 128 * GIB)
    assert groups["cpu-only",].device.kind == "cpu"


def test_a_card_that_no_catalogue_lists_is_planned_with_its_own_memory() -> None:
    node = make_node("odd", kind="cuda")
    node.accelerators.update(name="NVIDIA Mystery 9", memory_bytes=10 * GIB)

    (group,) = planning.resolve_hardware("odd").groups

    assert group.device.memory_bytes == 10 * GIB
    assert group.device.title == "NVIDIA Mystery 9"


def test_devices_that_went_missing_are_not_planned_with() -> None:
    node = make_node("half", devices=2)
    node.accelerators.filter(index=1).update(present=False)

    (group,) = planning.resolve_hardware("half").groups

    assert group.devices == 1


def test_a_cpu_costs_what_the_setting_says(settings: Settings) -> None:
    settings.LIFTOFF_PRICE_PER_HOUR = 0.5
    make_node("here")

    (group,) = planning.resolve_hardware("here").groups

    assert group.device.price_per_hour == 0.5


def test_built_in_hardware_comes_in_any_number_and_real_nodes_do_not() -> None:
    make_node("here")

    assert planning.resolve_hardware("8xh100-80", 4).devices == 32
    with pytest.raises(Refused) as refused:
        planning.resolve_hardware("here", 2)
    assert "use 1" in sentence(refused, "nodes")


@pytest.mark.parametrize(("asked", "meant"), [("rack-11", "rack-1"), ("a100-8", "a100-80"), ("fleets", "fleet")])
def test_unknown_hardware_gets_the_nearest_names(asked: str, meant: str) -> None:
    make_node("rack-1")

    with pytest.raises(Refused) as refused:
        planning.resolve_hardware(asked)

    assert f"{meant}" in sentence(refused, "hardware").partition("did you mean")[2]


def test_an_empty_fleet_says_what_to_do() -> None:
    with pytest.raises(Refused) as refused:
        planning.resolve_hardware("fleet")

    assert "start a worker" in sentence(refused, "hardware")


# Answers


def test_a_request_is_answered_with_plans() -> None:
    answer = planning.answer(ask("llama-3-8b", goal="lora", context=2048))

    assert answer.verdict == "fits"
    assert answer.plans[0].memory.expected == sum(line.expected for line in answer.plans[0].memory.lines)
    assert answer.parameters == built_in.shape("llama-3-8b").parameters


def test_the_rules_in_force_are_those_of_the_settings(settings: Settings) -> None:
    settings.LIFTOFF_RULES = planning.rules().model_copy(update={"memory_buffer": 0.5})

    memory = planning.answer(ask("llama-3-8b", goal="lora", context=512)).plans[0].memory

    assert memory.usable == memory.capacity // 2


# Jobs


def finetune(**spec: Any) -> FinetuneSpec:
    return FinetuneSpec.model_validate({"model": "small", "dataset": "rows", **spec})


@pytest.fixture
def small() -> None:
    make_model("small", config=CONFIG)
    make_dataset("rows", train_rows=320, token_histogram={"median": 100, "max": 240})


def test_a_spec_fixes_every_choice(small: None) -> None:
    spec = finetune(
        micro_batch=2,
        gradient_accumulation=8,
        context_length=512,
        gradient_checkpointing=True,
        precision="bf16",
        epochs=2,
        lora={"rank": 8, "target_modules": "q_proj,v_proj"},
        deepspeed={"zero_stage": 2, "offload_optimizer": True},
    )

    request = planning.of_spec(spec)

    assert (request.workload.goal, request.workload.batch, request.workload.context) == ("lora", 16, 512)
    assert (request.workload.lora_rank, request.workload.lora_targets) == (8, "q_proj,v_proj")
    assert request.workload.trained_tokens == 2 * 320 * 100
    assert None not in request.fixed.model_dump(exclude={"kv_cache"}).values()
    assert (request.fixed.zero_stage, request.fixed.offload_optimizer, request.fixed.micro_batch) == (2, True, 2)


@pytest.mark.parametrize(("name", "number"), [("NVIDIA A10", "bf16"), ("Tesla T4", "fp16"), ("cpu", "fp32")])
def test_precision_auto_is_what_the_run_would_choose(small: None, name: str, number: str) -> None:
    node = make_node("here", kind="cpu" if name == "cpu" else "cuda")
    memory = {"NVIDIA A10": 23_028, "Tesla T4": 15_360, "cpu": 16_384}[name] * 2**20
    node.accelerators.update(name=name, memory_bytes=memory)

    answer = planning.judge(finetune())

    assert {plan.method.precision for plan in answer.plans} == {number}


def test_a_job_is_judged_where_it_may_run(small: None) -> None:
    make_node("plain", kind="cpu")
    gpu = make_node("fast", kind="cuda", labels={"zone": "b"})
    gpu.accelerators.update(name="NVIDIA A10", memory_bytes=23_028 * 2**20, compute_capability="8.6")

    def devices(**resources: Any) -> set[int]:
        return {plan.memory.capacity for plan in planning.judge(finetune(resources=resources)).plans}

    assert devices(node="plain") == {16 * GIB}
    assert devices(device_kind="cuda") == {23_028 * 2**20}
    assert devices(labels={"zone": "b"}) == {23_028 * 2**20}
    assert devices(min_memory_gib=20) == {23_028 * 2**20}
    with pytest.raises(Refused) as refused:
        planning.judge(finetune(resources={"labels": {"zone": "c"}}))
    assert "no node" in sentence(refused, "resources")


def test_a_job_that_is_too_large_hears_what_would_do(small: None) -> None:
    make_node("here")

    answer = planning.judge(finetune(micro_batch=2048, context_length=2048))

    assert answer.verdict == "exceeds"
    assert answer.instead


def test_a_launch_in_eight_bits_takes_less(small: None) -> None:
    make_node("here")

    def weights(quantization: str) -> int:
        spec = LaunchSpec.model_validate({"model": "small", "quantization": quantization})
        (plan, *_) = planning.judge(spec).plans
        return next(line.expected for line in plan.memory.lines if line.name == "weights")

    assert weights("int8") < weights("none")


# From a plan back into the form


def test_a_plan_fills_the_form_that_starts_it(small: None) -> None:
    make_node("here")
    request = ask("small", "here", goal="lora", context=256, batch=16)
    plan = planning.answer(request).plans[0]

    values = planning.form_values(plan, request)

    assert planning.unusable(plan, request) is None
    assert (values["kind"], values["model"], values["resources__node"]) == ("finetune", "small", "here")
    assert int(values["micro_batch"]) * int(values["gradient_accumulation"]) == 16
    assert values["context_length"] == "256"
    assert ("gradient_checkpointing" in values) == plan.method.checkpointing


def test_a_plan_for_a_mixed_fleet_asks_for_devices_like_its_own(small: None) -> None:
    make_node("plain")
    strong = make_node("strong", kind="cuda")
    strong.accelerators.update(name="NVIDIA A10", memory_bytes=23_028 * 2**20, compute_capability="8.6")
    request = ask("small", "fleet", goal="lora", context=256, batch=16)
    plan = next(plan for plan in planning.answer(request).plans if plan.memory.capacity == 23_028 * 2**20)

    values = planning.form_values(plan, request)

    assert (values["resources__device_kind"], values["resources__min_memory_gib"]) == ("cuda", "22.4")
    judged = planning.judge(finetune(resources={"device_kind": "cuda", "min_memory_gib": 22.4}))
    assert judged.plans[0].memory.capacity == 23_028 * 2**20


def test_a_plan_of_several_devices_asks_for_them(small: None) -> None:
    make_node("here", devices=2).accelerators.update(name="CPU")
    request = ask("small", "here", goal="lora", context=256, batch=64)
    plan = next(plan for plan in planning.answer(request).plans if plan.method.data == 2)

    assert planning.unusable(plan, request) is None
    assert planning.form_values(plan, request)["resources__devices"] == "2"


@pytest.mark.parametrize(("goal", "quantization"), [("qlora", "nf4"), ("full", "none")])
def test_other_methods_are_planned_as_such_and_back(small: None, goal: str, quantization: str) -> None:
    make_node("here")
    request = ask("small", "here", goal=goal, context=256, batch=16)
    plan = planning.answer(request).plans[0]

    assert planning.unusable(plan, request) is None
    assert planning.form_values(plan, request)["method"] == goal
    spec = finetune(method=goal, micro_batch=2, context_length=256)
    judged = planning.judge(spec).plans[0]
    assert (planning.of_spec(spec).workload.goal, judged.method.quantization) == (goal, quantization)
    assert (
        judged.memory.expected != planning.judge(finetune(micro_batch=2, context_length=256)).plans[0].memory.expected
    )


def test_a_plan_to_serve_fills_the_launch_form(small: None) -> None:
    request = PlanRequest.model_validate(
        {"model": "small", "hardware": "l4", "workload": {"goal": "infer"}, "fixed": {"quantization": "nf4"}}
    )
    plan = planning.answer(request).plans[0]

    assert planning.unusable(plan, request) is None
    assert planning.form_values(plan, request) == {
        "kind": "launch", "model": "small", "context_length": "2048", "precision": "bf16", "quantization": "nf4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (ask("llama-3-8b", goal="lora"), "by its shape only"),
        (ask("llama-3-70b", "8xh100-80", goal="infer", context=8192), "one device"),
        (ask("small", "2x8-a100-80-25gbe", goal="lora", batch=4096), "one node"),
    ],
    ids=["built-in", "eight devices", "two nodes"],
)
def test_a_plan_that_no_job_can_follow_says_why(small: None, request_: PlanRequest, why: str) -> None:
    plan = planning.answer(request_).plans[0]

    assert why in (planning.unusable(plan, request_) or "")


# Measurements


def test_a_new_attempt_keeps_what_was_expected_of_it(small: None) -> None:
    node = make_node("here")
    job = make_job(spec={"model": "small", "dataset": "rows"})

    assert services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))

    predicted = Attempt.objects.get(job=job).predicted
    assert predicted is not None
    assert predicted["method"] == "lora/fp32"
    assert predicted["peak_bytes"] > 0
    assert predicted["step_s"] > 0


def test_a_model_that_cannot_be_planned_is_dispatched_all_the_same() -> None:
    node = make_node("here")
    job = make_job()  # its profile has no config and no such architecture

    assert services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))

    assert Attempt.objects.get(job=job).predicted is None


@pytest.fixture
def attempt(small: None) -> Attempt:
    job = make_job(spec={"model": "small", "dataset": "rows", "micro_batch": 2, "gradient_accumulation": 2})
    return make_attempt(job)


def told(attempt: Attempt, seq: int = 1, **values: Any) -> Envelope:
    return Envelope(
        job=attempt.job_id,
        attempt=attempt.number,
        seq=seq,
        at=1_700_000_000.0,
        event=Result(name="measured", values={**MEASURED, **values}),
    )


def test_what_an_attempt_measured_is_stored_beside_what_was_said_of_its_longest_sequence(attempt: Attempt) -> None:
    record([told(attempt)])

    seen = Measurement.objects.get(attempt=attempt)
    assert seen.measured_bytes == 400 * 2**20
    assert (seen.measured_step_s, seen.sequence_tokens, seen.basis) == (1.5, 96, "rss")
    assert seen.method == "lora/fp32"
    measurements.predict(attempt)
    attempt.refresh_from_db()
    assert attempt.predicted is not None
    assert 0 < seen.predicted_bytes < attempt.predicted["peak_bytes"], "512 tokens take more than 96"
    assert seen.predicted_step_s is not None
    assert seen.predicted_step_s < attempt.predicted["step_s"], "a median sequence of 80 tokens is faster than 512"


def test_the_same_word_twice_is_one_measurement(attempt: Attempt) -> None:
    record([told(attempt)])
    record([told(attempt)])
    record([told(attempt, seq=2, peak_bytes=10**12)])

    assert Measurement.objects.get(attempt=attempt).measured_bytes == 400 * 2**20


@pytest.mark.parametrize(
    "values",
    [
        {"peak_bytes": -1},
        {"peak_bytes": 10**30},
        {"sequence_tokens": 0},
        {"basis": "guess"},
        {"step_s": "soon"},
        {"peak_bytes": 5, "baseline_bytes": 6},
    ],
    ids=str,
)
def test_nonsense_is_dropped_and_stops_nothing(attempt: Attempt, values: dict[str, Any]) -> None:
    record([told(attempt, **values)])

    assert not Measurement.objects.exists()


def test_a_run_of_a_model_that_cannot_be_planned_is_not_compared() -> None:
    attempt = make_attempt(make_job())

    record([told(attempt)])

    assert not Measurement.objects.exists()


def test_finished_runs_correct_the_next_plan(small: None) -> None:
    node = make_node("here")
    spec = finetune(micro_batch=2)
    before = planning.judge(spec).plans[0]
    for _ in range(6):
        job = make_job(spec=spec.model_dump(mode="json"))
        attempt = make_attempt(job, node=node, status="succeeded")
        attempt.allocations.create(accelerator=Accelerator.objects.get(node=node), released_at=job.created_at)
        record([told(attempt, peak_bytes=3 * GIB, baseline_bytes=GIB, sequence_tokens=512, step_tokens=2.0 * 512)])

    after = planning.judge(spec).plans[0]

    assert after.calibrated is not None
    assert after.calibrated.runs == 6
    ratio = 2 * GIB / Measurement.objects.latest("at").predicted_bytes
    assert after.memory.expected == pytest.approx(before.memory.expected * ratio, rel=0.01)
    assert before.calibrated is None


def test_a_partial_fine_tune_is_planned_with_the_named_layers_alone() -> None:
    make_model("base", config=CONFIG)
    make_dataset("rows")
    make_node("here", ram_bytes=64 * GIB)

    def planned(layers: str) -> PlanAnswer:
        method = {"method": "partial", "trained_layers": layers} if layers else {"method": "full"}
        return planning.judge(FinetuneSpec.model_validate({"model": "base", "dataset": "rows", **method}))

    whole, part = planned("").plans[0], planned("layers.3.*").plans[0]
    assert part.title.startswith("Partial fp32")
    shape = planning.resolve_model("base")
    count, everything = shape.layers[0].parameters, shape.parameters
    assert part.why[0].startswith(f"Trains {count:,} of {everything:,} parameters, those of layers.3.*:")
    held = {line.name: line.expected for line in part.memory.lines}
    assert held["optimizer"] == 8 * count
    assert part.memory.expected < whole.memory.expected
    assert "None of the trained layers 'layers.9' is one of base" in planned("layers.9").words
