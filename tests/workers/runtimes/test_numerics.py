"""What a device computes with: chosen where it is left open, refused where it can't be had."""

from pathlib import Path
from typing import Any

import pytest
from trl import SFTConfig

from workers.contract.finetune import FinetuneSpec
from workers.runtimes.base import RunFailed
from workers.runtimes.finetune.numerics import Facts, decide
from workers.runtimes.finetune.trainer import trainer_settings

CPU = Facts("cpu")
TURING = Facts("cuda", 7.5)
AMPERE = Facts("cuda", 8.6, bf16=True, packages=frozenset({"torchao", "flash_attn"}))
HOPPER = Facts("cuda", 9.0, bf16=True, packages=frozenset({"torchao", "liger_kernel"}), compiler=True)


def spec(**values: Any) -> FinetuneSpec:
    return FinetuneSpec(model="tiny", dataset="tickets", **values)


@pytest.mark.parametrize(("device", "precision"), [(CPU, "fp32"), (TURING, "fp16"), (AMPERE, "bf16"), (HOPPER, "bf16")])
def test_auto_is_what_the_device_is_best_at(device: Facts, precision: str) -> None:
    found = decide(spec(), device)
    assert found.precision == precision
    assert found.fused_optimizer
    assert found.liger == (device is HOPPER)
    assert (found.attention, found.tf32, found.compile) == (None, False, False)


def test_deepspeed_keeps_its_own_optimizer() -> None:
    assert not decide(spec(deepspeed={}), HOPPER).fused_optimizer


@pytest.mark.parametrize(
    ("values", "device", "said"),
    [
        ({"precision": "fp16"}, CPU, "precision: fp16 needs a GPU"),
        ({"precision": "fp8"}, CPU, "compute capability 8.9 or more, and this device is a CPU; use auto."),
        ({"precision": "fp8"}, AMPERE, "compute capability 8.9 or more, and this device has 8.6"),
        ({"precision": "fp8"}, Facts("cuda", 9.0, True), "needs the package torchao or transformer-engine"),
        ({"numerics": {"attention": "flash_attention_2"}}, CPU, "numerics.attention: flash_attention_2 runs on GPUs"),
        ({"numerics": {"attention": "flash_attention_2"}}, HOPPER, "needs the package flash-attn"),
        ({"numerics": {"liger": "on"}}, CPU, "numerics.liger: Liger's kernels run on GPUs"),
        ({"numerics": {"liger": "on"}}, AMPERE, "the package liger-kernel isn't installed"),
        ({"numerics": {"compile": True}}, CPU, "numerics.compile: it needs g++, which this node hasn't"),
        ({"numerics": {"compile": True}}, AMPERE, "numerics.compile: it needs gcc or clang"),
        ({"numerics": {"tf32": True}}, TURING, "numerics.tf32: this device has no TF32"),
    ],
)
def test_what_cannot_be_had_is_refused(values: dict[str, Any], device: Facts, said: str) -> None:
    with pytest.raises(RunFailed) as refused:
        decide(spec(**values), device)
    assert said in refused.value.detail


def settings(tmp_path: Path, device: Facts, **values: Any) -> SFTConfig:
    made = trainer_settings(spec(**values), tmp_path, decide(spec(**values), device), "cpu", None)
    assert isinstance(made, SFTConfig)
    return made


def test_the_trainer_is_told(tmp_path: Path) -> None:
    asked = settings(tmp_path, HOPPER, precision="fp8", numerics={"compile": True, "fused_optimizer": "on"})
    assert asked.mixed_precision == "fp8"
    assert (asked.bf16, asked.fp16, asked.torch_compile, asked.use_liger_kernel) == (False, False, True, True)
    assert asked.optim == "adamw_torch_fused"
    plain = settings(tmp_path, CPU)
    assert (plain.mixed_precision, plain.optim, plain.torch_compile) == ("no", "adamw_torch_fused", False)
