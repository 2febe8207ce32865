"""The child process: its order, its events, its exit status."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.conftest import eventually
from tests.workers.runtimes.conftest import Child, finetune_order, launch_order
from workers.contract.reasons import Reason
from workers.runtimes.__main__ import explain


def failure(child: Child) -> Any:
    """The one Failed event of a child that has ended badly, which is its last."""
    assert child.wait() == 1, child.log()
    last = child.told().events[-1]
    assert last.type == "failed", child.log()
    return last


def test_an_unknown_version_is_unsupported(tmp_path: Path, tiny: Path) -> None:
    failed = failure(Child(tmp_path, finetune_order(tiny) | {"spec_version": 99}))
    assert failed.reason == Reason.UNSUPPORTED_SPEC
    assert "spec_version: 99" in failed.detail


def test_an_unknown_kind_is_unsupported(tmp_path: Path, tiny: Path) -> None:
    failed = failure(Child(tmp_path, launch_order(tiny) | {"spec": {"kind": "teleport"}}))
    assert failed.reason == Reason.UNSUPPORTED_SPEC
    assert "teleport" in failed.detail


def test_a_bad_field_is_named(tmp_path: Path, tiny: Path) -> None:
    failed = failure(Child(tmp_path, finetune_order(tiny, learning_rate=-1)))
    assert failed.reason == Reason.INVALID_INPUT
    assert "learning_rate" in failed.detail
    assert "-1" in failed.detail


def test_no_order_is_missing(tmp_path: Path) -> None:
    failed = failure(Child(tmp_path, None))
    assert failed.reason == Reason.ARTIFACT_MISSING
    assert "order.json" in failed.detail


def test_a_missing_model_is_missing(tmp_path: Path) -> None:
    failed = failure(Child(tmp_path, finetune_order(tmp_path / "nowhere")))
    assert failed.reason == Reason.ARTIFACT_MISSING
    assert "model.uri" in failed.detail


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, tiny: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(tiny / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})

    child = Child(tmp_path / "run", finetune_order(broken, evaluate=False))
    failed = failure(child)
    assert failed.reason == Reason.NAN_LOSS
    assert "step 1" in failed.detail
    assert not (child.run_dir / "output" / "adapter").exists()


def test_sigterm_ends_a_fine_tune(tmp_path: Path, tiny: Path) -> None:
    child = Child(tmp_path, finetune_order(tiny, max_steps=100_000, evaluate=False))
    try:
        eventually(lambda: child.told().metric("loss"), within_s=120)
        child.process.send_signal(signal.SIGTERM)
        assert child.wait(60) == 1
    finally:
        child.kill()
    assert child.told().of("failed") == []


def test_by_hand_the_events_go_to_standard_output(tmp_path: Path, tiny: Path) -> None:
    child = Child(tmp_path, finetune_order(tiny, learning_rate=-1), LIFTOFF_EVENTS_FD="")
    assert child.wait() == 1
    assert json.loads(child.log().splitlines()[-1])["type"] == "failed"


@pytest.mark.parametrize("error", [MemoryError("no more"), torch.OutOfMemoryError("CUDA out of memory")])
def test_running_out_of_memory_has_its_own_reason(error: Exception) -> None:
    assert explain(error).reason == Reason.OUT_OF_MEMORY


def test_running_out_of_host_memory_has_its_own_reason() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**58)
    assert explain(raised.value).reason == Reason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")],
    ids=["system", "safetensors"],
)
def test_a_full_disk_has_a_reason_of_its_own(error: Exception) -> None:
    assert explain(error).reason == Reason.DISK_FULL
    assert "No space left on device" in explain(error).detail


def test_any_other_error_is_a_crash_with_its_message() -> None:
    failed = explain(ZeroDivisionError("division by zero"))
    assert (failed.reason, failed.detail) == (Reason.CRASHED, "ZeroDivisionError: division by zero")
