"""Checkpoints: what is interrupted and goes on ends as what was never interrupted, to the last bit."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.workers.conftest import eventually
from tests.workers.runtimes.conftest import Child, Told, finetune_order, write_rows
from workers.runtimes.base import STOPPED_EXIT, Run
from workers.runtimes.finetune import checkpoints
from workers.whole import Torn, check_whole, write_whole

Finetuned = Callable[..., tuple[Run, Told]]

# Dropout and a schedule, so that random generators and the step count matter; five epochs of four steps each.
RECIPE: dict[str, Any] = {
    "max_steps": 0,
    "epochs": 5,
    "micro_batch": 2,
    "gradient_accumulation": 2,
    "lora": {"dropout": 0.1},
    "learning_rate": 0.01,
    "log_every": 3,
}


@pytest.fixture
def tickets(tmp_path: Path) -> dict[str, Any]:
    """Sixteen rows, as train and as test split."""
    rows = [{"text": f"case {n} of sort {'ab'[n % 2]}", "label": "ab"[n % 2]} for n in range(16)]
    path = str(write_rows(tmp_path / "rows.jsonl", rows))
    uris = {"train_uri": path, "test_uri": path}
    return {"name": "d", "format": "text_label", "sha256": "0", "labels": ("a", "b"), **uris}


def resumed(order: dict[str, Any], run_dir: Path, step: int) -> dict[str, Any]:
    folder = run_dir / "checkpoints" / f"step-{step}"
    return {**order, "attempt": 2, "resume": {"uri": str(folder), "step": step}}


def losses(*told: Told) -> dict[int, tuple[float, ...]]:
    """Loss, gradient norm and learning rate at each step."""
    names = ("loss", "grad_norm", "learning_rate", "epoch")
    return {
        event.step: tuple(event.values[name] for name in names)
        for one in told
        for event in one.of("metric")
        if "loss" in event.values
    }


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(run_dir / "output/adapter/adapter_model.safetensors"))


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def figures(told: Told) -> dict[str, Any]:
    """What the runs' results must agree in."""
    training = {name: value for name, value in told.result("training").items() if name != "seconds"}
    return {"training": training, "before": told.result("test_before"), "after": told.result("test_after")}


@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_run_that_goes_on_equals_one_that_was_not_interrupted(
    tiny: Path, tmp_path: Path, tickets: dict[str, Any], finetuned: Finetuned, step: int
) -> None:
    """At step 2 in the first epoch, 5 in the second between two logs, 8 at the end of the second."""
    order = finetune_order(tiny, tickets, **RECIPE)
    _, whole = finetuned(order, "whole")

    class StopsAt(Run):
        def progress(self, done: float, total: float, unit: str, eta_s: float | None = None) -> None:
            super().progress(done, total, unit, eta_s)
            if unit == "steps" and done == step:
                os.kill(os.getpid(), signal.SIGTERM)

    first = interrupted(StopsAt, order, tmp_path / "first")
    (checkpoint,) = first.of("checkpoint")
    assert (checkpoint.step, checkpoint.uri) == (step, f"checkpoints/step-{step}")
    assert first.of("failed") == []
    _, second = finetuned(resumed(order, tmp_path / "first", step), "second")

    assert losses(first, second) == losses(whole)
    assert_same(weights(tmp_path / "second"), weights(tmp_path / "whole"))
    assert figures(second) == figures(whole)
    assert second.phases() == ["loading model", "training", "evaluating after", "saving adapter"]
    steps = [event for event in second.of("progress") if event.unit == "steps"]
    assert [event.done for event in steps] == list(range(step, 21))
    assert steps[-1].eta_s == 0


def interrupted(kind: type[Run], order: dict[str, Any], run_dir: Path) -> Told:
    """The events of a run in this process that ends itself by SIGTERM, as the child process would."""
    from tests.workers.runtimes.conftest import read_events
    from workers.contract.order import Order
    from workers.runtimes.__main__ import _end_on_sigterm
    from workers.runtimes.base import Emitter
    from workers.runtimes.finetune.runtime import finetune

    run_dir.mkdir()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with (run_dir / "events").open("wb") as file:
            run = kind(Order.model_validate(order), run_dir, Emitter(file.fileno()))
            _end_on_sigterm(run)
            with pytest.raises(SystemExit) as ended:
                finetune(run)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == STOPPED_EXIT
    return read_events(run_dir / "events")


def test_what_is_stopped_after_training_does_not_train_again(
    tiny: Path, tmp_path: Path, tickets: dict[str, Any], finetuned: Finetuned
) -> None:
    order = finetune_order(tiny, tickets)
    _, whole = finetuned(order, "whole")

    class StopsAfter(Run):
        def phase(self, name: str) -> None:
            super().phase(name)
            if name == "evaluating after":
                os.kill(os.getpid(), signal.SIGTERM)

    first = interrupted(StopsAfter, order, tmp_path / "first")
    assert [event.step for event in first.of("checkpoint")] == [3]
    _, second = finetuned(resumed(order, tmp_path / "first", 3), "second")
    assert losses(second) == {}
    assert figures(second) == figures(whole)
    assert_same(weights(tmp_path / "second"), weights(tmp_path / "whole"))


def test_checkpoints_at_intervals_and_the_last_two_stay(
    tiny: Path, tmp_path: Path, tickets: dict[str, Any], finetuned: Finetuned
) -> None:
    order = finetune_order(tiny, tickets, max_steps=7, checkpoint_every=2, evaluate=False)
    _, whole = finetuned(order, "whole")
    told = whole.of("checkpoint")
    assert [event.step for event in told] == [2, 4, 6]
    folder = tmp_path / "whole/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-4", "step-6"]
    files = [path for path in (folder / "step-6").rglob("*") if path.is_file()]
    assert told[-1].bytes == sum(path.stat().st_size for path in files)
    assert not any(str(tiny) in path.read_text() for path in files if path.suffix == ".json")

    _, second = finetuned(resumed(order, tmp_path / "whole", 4), "second")
    assert losses(second) == {step: values for step, values in losses(whole).items() if step > 4}
    assert_same(weights(tmp_path / "second"), weights(tmp_path / "whole"))
    assert second.result("training")["loss_first"] == whole.metric("loss")[0]

    # One that is torn is never taken: the run begins at its beginning, and says so.
    (folder / "step-6/optimizer.pt").write_bytes(b"torn")
    _, third = finetuned(resumed(order, tmp_path / "whole", 6), "third")
    assert losses(third) == losses(whole)
    assert_same(weights(tmp_path / "third"), weights(tmp_path / "whole"))


def test_the_best_checkpoint_stays_and_scoring_changes_nothing(
    tiny: Path, tmp_path: Path, tickets: dict[str, Any], finetuned: Finetuned
) -> None:
    labels = ("x" * 24, "q" * 24)  # what is learned is wrong: the score gets worse with each step
    for split, label in zip(("train", "test"), labels, strict=True):
        rows = [{"text": f"case {n}", "label": label} for n in range(8)]
        tickets[f"{split}_uri"] = str(write_rows(tmp_path / f"{split}.jsonl", rows))
    tickets["labels"] = labels
    recipe: dict[str, Any] = {"max_steps": 4, "checkpoint_every": 1, "schedule": "constant", "lora": {"dropout": 0.1}}
    _, plain = finetuned(finetune_order(tiny, tickets, **recipe), "plain")
    kept = {"keep_last": 2, "keep_best": True, "evaluate": True}
    order = finetune_order(tiny, tickets, **recipe, checkpoints=kept)
    _, judged = finetuned(order, "judged")

    assert losses(judged) == losses(plain)
    assert_same(weights(tmp_path / "judged"), weights(tmp_path / "plain"))
    scores = {event.step: event.values["eval_loss"] for event in judged.of("metric") if "eval_loss" in event.values}
    assert list(scores) == [1, 2, 3, 4]
    assert scores[4] == judged.result("test_after")["loss"]
    assert {event.step: event.loss for event in judged.of("checkpoint")} == scores
    best = min(scores, key=lambda step: scores[step])
    assert best < 3, scores  # else the test shows nothing
    assert judged.result("best_checkpoint") == {"step": best, "loss": scores[best]}
    assert [event.step for event in judged.of("checkpoint") if event.best][-1] == best
    folder = tmp_path / "judged/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{step}" for step in (best, 3, 4)]

    # Which is the best is known to the run that goes on.
    _, second = finetuned(resumed(order, tmp_path / "judged", 3), "second")
    assert second.result("best_checkpoint") == judged.result("best_checkpoint")


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_run(
    tiny: Path,
    tmp_path: Path,
    tickets: dict[str, Any],
    finetuned: Finetuned,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = checkpoints.write_whole

    def full_at_2(parent: Path, step: int, fill: Callable[[Path], None]) -> tuple[Path, int]:
        def fill_and_run_out(folder: Path) -> None:
            fill(folder)
            if step == 2:
                raise OSError(28, "No space left on device")

        return write(parent, step, fill_and_run_out)

    monkeypatch.setattr(checkpoints, "write_whole", full_at_2)
    _, told = finetuned(finetune_order(tiny, tickets, max_steps=2, checkpoint_every=1, evaluate=False))
    assert [event.step for event in told.of("checkpoint")] == [1]
    assert told.result("training")["steps"] == 2
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-1"]
    assert "checkpoint of step 2 could not be saved; the one before it stays" in capsys.readouterr().out


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "a").write_text("a")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "checkpoints", 3, half)
    assert list((tmp_path / "checkpoints").iterdir()) == []

    folder, _ = write_whole(tmp_path / "checkpoints", 3, lambda fresh: (fresh / "a").write_text("a"))
    check_whole(folder, 3)
    with pytest.raises(Torn, match="step 3, not of step 4"):
        check_whole(folder, 4)
    (folder / "a").write_text("b")
    with pytest.raises(Torn, match="a is missing or damaged"):
        check_whole(folder, 3)
    (folder / "checkpoint.json").write_text("{")
    with pytest.raises(Torn, match="can't be read"):
        check_whole(folder, 3)


def test_a_child_process_with_deepspeed_goes_on(tiny: Path, tmp_path: Path, tickets: dict[str, Any]) -> None:
    order = finetune_order(tiny, tickets, max_steps=4, checkpoint_every=2, evaluate=False, deepspeed={"zero_stage": 2})
    whole = Child(tmp_path / "whole", order, PATH="/nonexistent")
    assert whole.wait(240) == 0, whole.log()
    assert [event.step for event in whole.told().of("checkpoint")] == [2, 4]
    second = Child(tmp_path / "second", resumed(order, tmp_path / "whole", 2), PATH="/nonexistent")
    assert second.wait(240) == 0, second.log()
    assert "can't be used" not in second.log()
    expected = [values[0] for step, values in losses(whole.told()).items() if step > 2]
    assert [values[0] for values in losses(second.told()).values()] == pytest.approx(expected, rel=1e-6)


def test_one_process_goes_on_from_what_two_shared_out(tiny: Path, tmp_path: Path, tickets: dict[str, Any]) -> None:
    """The same samples a step; ZeRO keeps its states in as many parts as there are processes."""
    recipe = {"max_steps": 4, "checkpoint_every": 2, "evaluate": False, "deepspeed": {"zero_stage": 2}}
    both = finetune_order(tiny, tickets, **recipe)
    both["devices"] = [{"kind": "cpu", "index": 0}, {"kind": "cpu", "index": 1}]
    two = Child(tmp_path / "two", both)
    assert two.wait(240) == 0, two.log()
    alone = finetune_order(tiny, tickets, **recipe, gradient_accumulation=2)
    one = Child(tmp_path / "one", resumed(alone, tmp_path / "two", 2))
    assert one.wait(240) == 0, one.log()
    assert "2 processes made the checkpoint, and 1 go on from it." in one.log()
    expected = {step: values[0] for step, values in losses(two.told()).items() if step > 2}
    assert {step: values[0] for step, values in losses(one.told()).items()} == pytest.approx(expected, rel=1e-5)


def test_zero_3_goes_on_with_fewer_processes_and_with_more(tiny: Path, tmp_path: Path, tickets: dict[str, Any]) -> None:
    """Two, then one, then two: weights and states are in parts, in two groups of which one isn't decayed."""
    recipe = {"method": "full", "max_steps": 3, "checkpoint_every": 1, "evaluate": False, "weight_decay": 0.1}
    recipe |= {"learning_rate": 1e-3, "deepspeed": {"zero_stage": 3}, "checkpoints": {"keep_last": 3}}
    alone = finetune_order(tiny, tickets, **recipe, gradient_accumulation=2)
    both = finetune_order(tiny, tickets, **recipe)
    both["devices"] = [{"kind": "cpu", "index": 0}, {"kind": "cpu", "index": 1}]
    told = []
    for name, order in (
        ("two", both),
        ("one", resumed(alone, tmp_path / "two", 1)),
        ("again", resumed(both, tmp_path / "one", 2)),
    ):
        child = Child(tmp_path / name, order)
        assert child.wait(240) == 0, child.log()
        told.append({step: values[0] for step, values in losses(child.told()).items()})
    two, one, again = told
    assert "1 process made the checkpoint, and 2 go on from it." in child.log()
    assert one == pytest.approx({step: two[step] for step in (2, 3)}, rel=1e-6)
    assert again == pytest.approx({3: two[3]}, rel=1e-6)


def test_sigterm_to_the_child_process_leaves_a_whole_checkpoint(
    tiny: Path, tmp_path: Path, tickets: dict[str, Any]
) -> None:
    child = Child(tmp_path / "run", finetune_order(tiny, tickets, max_steps=100_000, evaluate=False))
    try:
        eventually(lambda: child.told().metric("loss"), within_s=120)
        child.process.send_signal(signal.SIGTERM)
        assert child.wait(60) == STOPPED_EXIT
    finally:
        child.kill()
    (event,) = child.told().of("checkpoint")
    assert child.told().events[-1] == event
    check_whole(child.run_dir / event.uri, event.step)
