"""Several processes on one node: they train as one does, stop together, and say why the first of them failed."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from tests.workers.conftest import eventually
from tests.workers.runtimes.conftest import Child, Told, finetune_order
from tests.workers.runtimes.test_checkpoints import resumed
from workers.contract.reasons import Reason
from workers.runtimes.base import STOPPED_EXIT, Run

Finetuned = Callable[..., tuple[Run, Told]]
TWO = [{"kind": "cpu", "index": 0, "name": "CPU"}, {"kind": "cpu", "index": 1, "name": "CPU"}]
STEPS = 8


def order_of(tiny: Path, processes: int, micro_batch: int, **spec: Any) -> dict[str, Any]:
    order = finetune_order(tiny, **{"max_steps": STEPS, "micro_batch": micro_batch, "learning_rate": 0.01, **spec})
    return {**order, "devices": TWO[:processes]}


def carried_out(order: dict[str, Any], run_dir: Path) -> Child:
    child = Child(run_dir, order)
    assert child.wait(240) == 0, child.log()
    return child


def test_two_processes_train_adapters_as_one_does(tiny: Path, tmp_path: Path, finetuned: Finetuned) -> None:
    """By plain data parallelism; `test_one_curve` has the ways to spread whole models."""
    child = carried_out(order_of(tiny, 2, 2), tmp_path / "two")
    run, one = finetuned(order_of(tiny, 1, 4), "alone")

    told = child.told()
    assert told.metric("loss") == pytest.approx(one.metric("loss"), rel=1e-4)
    assert told.result("test_before") == pytest.approx(one.result("test_before"), rel=1e-4)
    assert told.result("test_after") == pytest.approx(one.result("test_after"), rel=1e-3)
    assert told.phases() == one.phases()  # each thing is said once
    assert told.result("training")["tokens"] == one.result("training")["tokens"]
    two, whole = (load_file(path / "output/adapter/adapter_model.safetensors") for path in (child.run_dir, run.run_dir))
    assert two.keys() == whole.keys()


def test_a_stop_saves_and_the_next_attempt_goes_on(tiny: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"evaluate": False, "schedule": "constant", "warmup_ratio": 0}
    order = order_of(tiny, 2, 2, max_steps=400, deepspeed={"zero_stage": 3}, **recipe)
    child = Child(tmp_path / "first", order)
    eventually(lambda: len(child.told().of("metric")) >= 3, 120)
    child.process.send_signal(signal.SIGTERM)
    assert child.wait(60) == STOPPED_EXIT, child.log()

    (checkpoint,) = child.told().of("checkpoint")
    assert child.told().of("failed") == []
    until = checkpoint.step + 4
    again = resumed(order, tmp_path / "first", checkpoint.step)
    again["spec"] = {**again["spec"], "max_steps": until}
    whole = {**order, "spec": {**order["spec"], "max_steps": until}}
    later = carried_out(again, tmp_path / "second").told()
    assert [event.step for event in later.of("metric")] == list(range(checkpoint.step + 1, until + 1))
    told = carried_out(whole, tmp_path / "whole").told()
    assert later.metric("loss") == pytest.approx(told.metric("loss")[checkpoint.step :], rel=1e-5)


def test_a_killed_process_ends_the_run_by_the_same_signal(tiny: Path, tmp_path: Path) -> None:
    child = Child(tmp_path / "run", order_of(tiny, 2, 2, max_steps=100_000, evaluate=False))
    eventually(lambda: child.told().of("metric"), 120)
    ranks = [
        process
        for process in psutil.Process(child.process.pid).children()
        if "workers.runtimes" in str(process.cmdline())
    ]
    assert len(ranks) == 2
    max(ranks, key=lambda process: process.pid).kill()
    assert child.wait(60) == -signal.SIGKILL
    assert not [process for process in ranks if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_a_refusal_is_told_once(tiny: Path, tmp_path: Path) -> None:
    child = Child(tmp_path / "run", order_of(tiny, 2, 2, lora={"target_modules": "nope"}))
    assert child.wait(120) == 1
    (failed,) = child.told().of("failed")
    assert failed.reason == Reason.INVALID_INPUT
    assert "'nope' is no layer" in failed.detail
