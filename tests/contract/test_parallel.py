"""What spreading a model over devices can't be combined with is refused at the field that has to change."""

from typing import Any

import pytest
from pydantic import ValidationError

from workers.contract.errors import from_pydantic
from workers.contract.finetune import FinetuneSpec


def spec(tensor: int, pipeline: int, devices: int, **more: Any) -> dict[str, Any]:
    parallel = {"tensor": tensor, "pipeline": pipeline}
    common = {"model": "m", "dataset": "d", "method": "full", "parallel": parallel, "resources": {"devices": devices}}
    return {**common, **more}


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        (spec(2, 2, 4), "parallel.pipeline", "can't be combined with 2 tensor-parallel devices"),
        (spec(2, 1, 3), "resources.devices", "use a multiple of 2"),
        (spec(1, 4, 2), "resources.devices", "use a multiple of 4"),
        (spec(4, 1, 2, resources={"devices": 2, "nodes": 2}), "parallel.tensor", "have to be on one node"),
        (spec(1, 2, 2, deepspeed={"zero_stage": 3}), "deepspeed.zero_stage", "use stage 0 or 1"),
        (spec(1, 2, 2, deepspeed={"zero_stage": 2}), "deepspeed.zero_stage", "use stage 0 or 1"),
        (
            spec(1, 2, 2, deepspeed={"zero_stage": 1, "offload_optimizer": "cpu"}),
            "deepspeed.offload_optimizer",
            "turn it off",
        ),
        (spec(1, 2, 2, method="lora"), "method", "use full"),
        (spec(1, 2, 2, packing=True), "packing", "turn it off"),
        (spec(1, 2, 2, checkpoint_every=5, checkpoints={"evaluate": True}), "checkpoints.evaluate", "turn it off"),
        (spec(1, 2, 2, data={"streaming": "off"}), "data.streaming", "use auto or on"),
        (spec(1, 2, 2, precision="fp16"), "precision", "use bf16"),
        (spec(2, 1, 2, precision="fp16"), "precision", "use bf16"),
        (spec(2, 1, 2, deepspeed={"zero_stage": 0}), "deepspeed.zero_stage", "leave DeepSpeed off"),
        (spec(2, 1, 2, method="qlora"), "method", "use lora"),
        (spec(2, 1, 2, method="lora", lora={"variant": "dora"}), "lora.variant", "use lora or rslora"),
        (spec(2, 1, 4, method="lora"), "parallel.tensor", "use as many devices"),
        (spec(2, 1, 2, objective="dpo"), "objective", "use sft"),
        (spec(1, 1, 1, method="qlora", deepspeed={"zero_stage": 3}), "deepspeed.zero_stage", "use stage 2 or less"),
    ],
)
def test_what_cannot_be_combined_is_refused_at_its_field(given: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        FinetuneSpec.model_validate(given)
    (error,) = from_pydantic(refused.value)
    assert error.field == field
    assert error.message.startswith(f"{field}: ")
    assert said in error.message


@pytest.mark.parametrize(
    ("given", "copies"),
    [
        (spec(2, 1, 4), 2),
        (spec(1, 2, 2, deepspeed={"zero_stage": 1}), 1),
        (spec(1, 2, 1, resources={"devices": 1, "nodes": 4}), 2),
        (spec(2, 1, 2, method="lora"), 1),
        ({"model": "m", "dataset": "d", "resources": {"devices": 3}}, 3),
    ],
)
def test_devices_that_one_copy_leaves_train_further_copies(given: dict[str, Any], copies: int) -> None:
    assert FinetuneSpec.model_validate(given).data_parallel == copies
