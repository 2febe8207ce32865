"""DeepSpeed's settings, and the config file that portal and node make of them."""

from typing import Any

import pytest
from pydantic import ValidationError

from workers.contract.ds_config import ds_config
from workers.contract.finetune import FinetuneSpec


def spec(**deepspeed: Any) -> FinetuneSpec:
    return FinetuneSpec.model_validate({"model": "m", "dataset": "d", "micro_batch": 2, "deepspeed": deepspeed})


def config(**deepspeed: Any) -> dict[str, Any]:
    made = ds_config(spec(**deepspeed), 2, "bf16", True, "/nvme/run")
    assert made is not None
    return made


def test_offloads_are_in_the_config_where_they_are_asked_for() -> None:
    assert config(zero_stage=2)["zero_optimization"] == {"stage": 2}
    assert config(zero_stage=3, offload_optimizer="nvme", offload_parameters="cpu")["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": {"device": "nvme", "pin_memory": True, "nvme_path": "/nvme/run"},
        "offload_param": {"device": "cpu", "pin_memory": True},
        "stage3_gather_16bit_weights_on_model_save": True,
    }


def test_batch_sizes_are_those_of_the_job() -> None:
    made = config(zero_stage=1)
    assert (made["train_micro_batch_size_per_gpu"], made["train_batch_size"]) == (2, 4)
    assert made["bf16"] == {"enabled": True}


@pytest.mark.parametrize(
    ("stage", "before", "now"), [(2, True, "cpu"), (2, False, "none"), (0, True, "none"), (0, False, "none")]
)
def test_a_spec_of_before_says_true_or_false(stage: int, before: bool, now: str) -> None:
    settings = spec(zero_stage=stage, offload_optimizer=before).deepspeed
    assert settings is not None
    assert settings.offload_optimizer == now


def test_what_the_user_gives_is_laid_over_key_by_key() -> None:
    changes = {"zero_optimization": {"reduce_bucket_size": 1000}, "optimizer": {"params": {"eps": 1e-6}}, "x": [1]}
    made, plain = config(zero_stage=1, config=changes), config(zero_stage=1)
    assert made["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 1000}
    assert made["optimizer"]["params"] == {**plain["optimizer"]["params"], "eps": 1e-6}
    assert made["x"] == [1]
    assert config(zero_stage=1, config='{"zero_optimization": {"reduce_bucket_size": 1000}, "x": [1]}')["x"] == [1]
    assert config(zero_stage=1, config=" ") == plain


@pytest.mark.parametrize(
    ("deepspeed", "sentence"),
    [
        ({"zero_stage": 0, "offload_optimizer": "cpu"}, "offload_optimizer: cpu needs ZeRO 1 or more"),
        ({"zero_stage": 2, "offload_optimizer": "nvme"}, "offload_optimizer: nvme needs ZeRO 3, not 2"),
        ({"zero_stage": 2, "offload_parameters": "cpu"}, "offload_parameters: cpu needs ZeRO 3, not 2"),
        ({"zero_stage": 3, "nvme_path": "/mnt"}, "nvme_path: '/mnt' has no meaning"),
        ({"zero_stage": 3, "offload_optimizer": "nvme", "nvme_path": "a/b"}, "'a/b' is no plain absolute path"),
        ({"zero_stage": 3, "offload_optimizer": "nvme", "nvme_path": "/a/../b"}, "is no plain absolute path"),
        ({"config": "{"}, "it is no JSON"),
        ({"config": "[1]"}, "valid dictionary"),
        ({"config": {"train_batch_size": 4}}, "train_batch_size is set by micro_batch and gradient_accumulation"),
        ({"config": {"optimizer": {"params": {"lr": 1}}}}, "optimizer.params.lr is set by learning_rate"),
        ({"config": {"zero_optimization": {"stage": 3}}}, "zero_optimization.stage is set by deepspeed.zero_stage"),
        ({"config": {"fp16": {"enabled": True}}}, "fp16.enabled is set by precision"),
        ({"config": {"wandb": {"enabled": True}}}, "wandb can't be had"),
        ({"config": {"flops_profiler": {"output_file": "/etc/x"}}}, "flops_profiler.output_file names a place"),
        ({"config": {"zero_optimization": {"offload_param": {"nvme_path": "/"}}}}, "nvme_path names a place"),
        ({"config": {"x": "y" * 20_000}}, "more than 20,000 characters"),
    ],
)
def test_what_cannot_be_is_refused_by_name(deepspeed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        spec(**deepspeed)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"checkpoints": {"keep_best": True}}, "checkpoint_every: 0 makes no checkpoints for checkpoints.keep_best"),
        ({"checkpoints": {"evaluate": True}}, "checkpoint_every: 0 makes no checkpoints for checkpoints.evaluate"),
        ({"checkpoints": {"evaluate": True}, "checkpoint_every": 5, "evaluate": False}, "nothing is scored where"),
        ({"checkpoints": {"keep_last": 1}}, "greater than or equal to 2"),
        ({"save_merged": True, "method": "qlora"}, "save_merged: method qlora has no adapter to merge"),
        (
            {"save_merged": True, "parallel": {"tensor": 2}, "resources": {"devices": 2}},
            "save_merged: no process has the whole model where it is split",
        ),
        ({"save_gguf": True, "method": "qlora"}, "save_gguf: the 4-bit weights of qlora can't be written as GGUF"),
        ({"save_merged": True, "deepspeed": {"zero_stage": 3}}, "save_merged: no process has the whole model"),
    ],
)
def test_what_is_to_be_kept_must_be_there(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        FinetuneSpec.model_validate({"model": "m", "dataset": "d", **changes})
    assert sentence in str(refused.value)
