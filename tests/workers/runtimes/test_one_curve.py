"""One loss curve however the same global batch is spread: ZeRO 0 to 3, tensors, a pipeline, or one process.

A full fine-tune of a tiny model, whose gradients are clipped, whose batches are padded and whose loss falls. Sums are
taken in other orders, so losses differ by rounding: at most 2e-7 of themselves was seen, and 1e-4 is allowed.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tests.workers.runtimes.conftest import Child, finetune_order

STEPS = 20
RELATIVE = 1e-4
RECIPE: dict[str, Any] = {
    "method": "full",
    "max_steps": STEPS,
    "micro_batch": 2,
    "learning_rate": 1e-3,
    "max_grad_norm": 0.5,
    "weight_decay": 0.1,
}


def carried_out(tiny: Path, run_dir: Path, processes: int, copies: int = 1, **spec: Any) -> Child:
    """`copies` of the model train on different data: two micro batches a step, and two readers of data, in all."""
    each = 2 // copies
    spread = {"gradient_accumulation": each, "data": {"streaming": "on", "workers": each}}
    order = finetune_order(tiny, **RECIPE, **spread, resources={"devices": processes}, **spec)
    child = Child(run_dir, {**order, "devices": [{"kind": "cpu", "index": index} for index in range(processes)]})
    assert child.wait(240) == 0, child.log()
    return child


@pytest.fixture(scope="module")
def alone(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Child:
    """One process, ZeRO 0."""
    child = carried_out(tiny, tmp_path_factory.mktemp("alone") / "run", 1, deepspeed={"zero_stage": 0})
    losses = child.told().metric("loss")
    assert len(losses) == STEPS
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), losses  # else equal curves show nothing
    return child


@pytest.mark.parametrize(
    ("copies", "spec"),
    [
        *((2, {"deepspeed": {"zero_stage": stage}}) for stage in range(4)),
        (1, {"parallel": {"tensor": 2}}),
        (1, {"parallel": {"pipeline": 2}}),
    ],
    ids=["zero_0", "zero_1", "zero_2", "zero_3", "tensor", "pipeline"],
)
def test_two_processes_train_as_one_does(
    tiny: Path, tmp_path: Path, alone: Child, copies: int, spec: dict[str, Any]
) -> None:
    child = carried_out(tiny, tmp_path / "two", 2, copies, **spec)

    told, one = child.told(), alone.told()
    assert told.metric("loss") == pytest.approx(one.metric("loss"), rel=RELATIVE)
    assert told.metric("learning_rate") == pytest.approx(one.metric("learning_rate"))
    assert told.result("test_before") == pytest.approx(one.result("test_before"), rel=RELATIVE)
    assert told.result("test_after") == pytest.approx(one.result("test_after"), rel=1e-3)
    assert sorted(told.phases()) == sorted(one.phases())  # each thing is said once
    for figure in ("tokens", "steps", "trainable_parameters"):
        assert told.result("training")[figure] == one.result("training")[figure]
    if "deepspeed" in spec:
        config = json.loads((child.run_dir / "output/ds_config.json").read_text())
        assert config["train_batch_size"] == 4
    two, whole = (
        AutoModelForCausalLM.from_pretrained(run.run_dir / "output/model").state_dict() for run in (child, alone)
    )
    assert two.keys() == whole.keys()
    assert max(float((two[name] - whole[name]).abs().max()) for name in whole) < 1e-4
