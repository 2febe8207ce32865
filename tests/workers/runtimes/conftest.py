"""Tiny models, orders and two ways to run them: in this process, and as the child process a node starts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import tiny_model
from workers.contract.events import EVENT
from workers.contract.names import EVENTS_FD_ENV
from workers.contract.order import Order
from workers.runtimes.base import Emitter, Run

ROOT = Path(__file__).parents[3]
STARTER = ROOT / "datasets" / "starter"
STARTER_LABELS = ("billing", "bug", "cancellation", "delivery", "feature", "login", "refund", "upgrade")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model."""
    return tiny_model.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a chat template."""
    return tiny_model.build(tmp_path_factory.mktemp("plain"), chat_template=False)


class Told(NamedTuple):
    """What a run said."""

    events: list[Any]

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    def phases(self) -> list[str]:
        return [event.name for event in self.of("phase")]

    def metric(self, name: str) -> list[float]:
        return [event.values[name] for event in self.of("metric") if name in event.values]

    def results(self, name: str) -> list[dict[str, Any]]:
        return [dict(event.values) for event in self.of("result") if event.name == name]

    def result(self, name: str) -> dict[str, Any]:
        (found,) = self.results(name)
        return found


def read_events(path: Path) -> Told:
    return Told([EVENT.validate_json(line) for line in path.read_text().splitlines()])


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def starter_dataset() -> dict[str, Any]:
    return {
        "name": "starter-tickets",
        "format": "text_label",
        "train_uri": str(STARTER / "train.jsonl"),
        "test_uri": f"file://{STARTER / 'test.jsonl'}",
        "sha256": "5eed",
        "labels": STARTER_LABELS,
    }


def finetune_order(model: Path, dataset: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """An order for a short fine-tune; `spec` fills in the spec."""
    quick = {"max_steps": 3, "micro_batch": 2, "learning_rate": 0.01, "context_length": 200, "eval_limit": 4}
    return {
        "job": 7,
        "attempt": 1,
        "node": "here",
        "spec": {"kind": "finetune", "model": "tiny", "dataset": "starter-tickets", **quick, **spec},
        "model": {"name": "tiny", "uri": str(model)},
        "dataset": dataset or starter_dataset(),
        "devices": [{"kind": "cpu", "index": 0}],
        "result_uri": "store://runs/7",
    }


def launch_order(model: Path, **more: Any) -> dict[str, Any]:
    return {
        "job": 8,
        "attempt": 1,
        "node": "here",
        "spec": {"kind": "launch", "model": "tiny"},
        "model": {"name": "tiny", "uri": str(model)},
        "devices": [{"kind": "cpu", "index": 0}],
        "result_uri": "store://runs/8",
        "serve_token": "open-sesame",
        **more,
    }


@pytest.fixture
def finetuned(tmp_path: Path) -> Callable[..., tuple[Run, Told]]:
    """Carry out a fine-tune order in this process; the run and what it told."""

    def carry_out(order: dict[str, Any], name: str = "run") -> tuple[Run, Told]:
        from workers.runtimes.finetune.runtime import finetune

        run_dir = tmp_path / name
        run_dir.mkdir()
        with (run_dir / "events").open("wb") as file:
            run = Run(Order.model_validate(order), run_dir, Emitter(file.fileno()))
            finetune(run)
        return run, read_events(run_dir / "events")

    return carry_out


class Child:
    """`python -m workers.runtimes` at work, its events and its output in files of the run directory."""

    def __init__(self, run_dir: Path, order: dict[str, Any] | None, **environment: str) -> None:
        self.run_dir = run_dir
        run_dir.mkdir(exist_ok=True)
        if order is not None:
            (run_dir / "order.json").write_text(json.dumps(order))
        with (run_dir / "events").open("wb") as events, (run_dir / "output.log").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.runtimes", str(run_dir)],
                cwd=run_dir,
                env={**os.environ, "PYTHONPATH": str(ROOT), EVENTS_FD_ENV: str(events.fileno()), **environment},
                pass_fds=[events.fileno()],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def told(self) -> Told:
        return read_events(self.run_dir / "events")

    def wait(self, seconds: float = 120) -> int:
        """Exit status; the child is killed when it takes longer."""
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return (self.run_dir / "output.log").read_text()
