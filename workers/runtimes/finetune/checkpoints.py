"""Checkpoints of a fine-tune: all that a later attempt needs to go on as if nothing had happened.

RUN_DIR/checkpoints/step-N is written aside, synced and renamed, so it is whole or not there. Knows nothing of the
store, nor of why a run is stopped.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback

from workers.child import RUN_ENV
from workers.contract.names import CHECKPOINTS_DIR
from workers.contract.order import ResumeInput
from workers.runtimes.base import Run, RunFailed, local_path
from workers.runtimes.finetune.feed import Feed
from workers.runtimes.finetune.trainer import Narrator
from workers.runtimes.team import all_agree, any_wants, local_rank
from workers.whole import Torn, check_whole, fresh_folder, write_whole

PROGRESS_FILE = "progress.json"
STATE_FILE = "trainer_state.json"

Results = dict[str, dict[str, Any]]


class Best(NamedTuple):
    """The best checkpoint so far."""

    step: int
    loss: float


class Trains(Protocol):
    """What is read and set of a trainer, of Transformers' or of a pipeline's."""

    state: Any
    feed: Feed | None
    _tr_loss: Any
    _globalstep_last_logged: int
    _total_train_tokens: int

    def pending_loss(self) -> float: ...

    def state_parts(self, folder: Path) -> list[Callable[[], object]]: ...


class Saver(TrainerCallback):  # type: ignore[misc]  # the library is untyped
    """Saves every `checkpoint_every` steps, and once more when asked to stop, at the end of the step under way.

    A checkpoint holds what is trained, the optimizer, the schedule, the random generators, the place in the data, the
    loss not logged yet, and `results` so far. The trainer's own attributes are read and set where it has no better
    way (transformers 5.24, TRL 1.16).
    """

    def __init__(
        self, run: Run, trainer: Trains, narrator: Narrator, results: Results, write: Callable[[Path], None]
    ) -> None:
        """`write` puts what is trained into a folder; all processes call it."""
        self._run = run
        self._trainer = trainer
        self._narrator = narrator
        self._results = results
        self._write = write
        self._every = run.finetune_spec.checkpoint_every
        self._kept = run.finetune_spec.checkpoints
        self._saved_step = 0
        self._loss: float | None = None
        self._seen_losses = 0
        self.score: Callable[[], float] | None = None
        """Tells the loss on the test split; None where checkpoints aren't scored."""
        self.best: Best | None = None
        self._progress: dict[str, Any] = {}
        self._earlier_s = 0.0
        self._begun_at = time.monotonic()
        self.asked = False
        """Whether the run was asked to stop."""
        self._stops = False
        """Whether all stop after this step."""

    @property
    def seconds(self) -> float:
        """Spent training, in the attempts before as well."""
        return self._earlier_s + time.monotonic() - self._begun_at

    def ask(self) -> None:
        """Save and stop after the step under way. May be called by a signal handler."""
        self.asked = True

    def resume(self, given: ResumeInput | None) -> Path | None:
        """The checkpoint to go on from, its results and figures taken over; None to begin at the beginning.

        Of several processes each calls it: all go on, or none.
        """
        folder, progress = self._read(given) if given else (None, {})
        if not all_agree(folder is not None) or given is None:
            return None
        self._progress = progress
        self._results.update(self._progress["results"])
        self._narrator.losses = list(self._progress["losses"])
        self._narrator.tokens = self._progress["tokens"]
        self._earlier_s = self._progress["seconds"]
        self._saved_step = given.step
        self._seen_losses = len(self._narrator.losses)
        if best := self._progress.get("best"):
            self.best = Best(**best)
        if self._trainer.feed and self._progress.get("data"):
            self._trainer.feed.go_on(self._progress["data"])
        return folder

    def _read(self, given: ResumeInput) -> tuple[Path | None, dict[str, Any]]:
        try:
            folder = local_path(given.uri, "resume.uri")
            check_whole(folder, given.step)
            return folder, json.loads((folder / PROGRESS_FILE).read_text())
        except (Torn, RunFailed, OSError, ValueError) as error:
            print(f"The checkpoint of step {given.step} can't be used; training begins at the beginning: {error}")
            return None, {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun_at = time.monotonic()
        if self._progress:
            self._trainer._tr_loss = torch.tensor(self._progress["pending_loss"], device=args.device)
            self._trainer._globalstep_last_logged = self._progress["logged_step"]
            self._trainer._total_train_tokens = self._progress["tokens"]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stops = any_wants(self.asked)  # who is asked while they vote says so after the next step
        if self._stops:
            self.asked = True
            control.should_save = control.should_training_stop = True
        elif self._every and state.global_step % self._every == 0:
            control.should_save = not any_wants(self._is_behind())

    def _is_behind(self) -> bool:
        """Whether this node of several has yet to store its part of the last checkpoint: all store those of the same
        steps, so that there is always one of which every part is kept."""
        if self._run.order.team is None or RUN_ENV not in os.environ or local_rank() > 0:
            return False  # without a supervisor nobody stores anything
        return any(path.is_dir() for path in (self._run.run_dir / CHECKPOINTS_DIR).glob("*"))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._judge(state.global_step)
        self.save()

    def _judge(self, step: int) -> None:
        """How good the model is now: on the test split, else by the training losses since it was last judged."""
        losses = self._narrator.losses[self._seen_losses :]
        self._seen_losses = len(self._narrator.losses)
        self._loss = sum(losses) / len(losses) if losses else None
        if self.score and not self._stops:  # who asks doesn't wait for long
            with self._narrator.aside():
                self._loss = self.score()
            self._run.metric({"eval_loss": self._loss}, step)
        elif self._kept.evaluate:
            self._loss = None  # a training loss is no measure beside those of the test split

    def save(self) -> None:
        """Save the state after the last step, once. Where that fails the run goes on, and the last good one stays.

        Of several processes each calls it: the first of each node makes the folder there whole of what all have
        written into it.
        """
        step = self._trainer.state.global_step
        if step == self._saved_step:
            return
        folder = self._run.run_dir / CHECKPOINTS_DIR
        loss, before = self._loss, self.best
        if self._kept.keep_best and loss is not None and (before is None or loss < before.loss):
            self.best = Best(step, loss)
        saved = self._lead(folder, step) if local_rank() == 0 else self._follow(fresh_folder(folder, step))
        if saved:
            self._saved_step = step
        else:
            self.best = before

    def _lead(self, parent: Path, step: int) -> bool:
        begun: bool | None = None

        def fill(fresh: Path) -> None:
            nonlocal begun
            begun = all_agree(True)
            if not begun:
                raise OSError("another node could not begin its part.")
            self._fill(fresh)

        saved = False
        try:
            folder, size = write_whole(parent, step, fill)
            saved = True
        except (OSError, RuntimeError, SafetensorError) as error:
            print(f"The checkpoint of step {step} could not be saved; the one before it stays: {error}")
        if begun is None:
            all_agree(False)
            return False
        if not begun or not all_agree(saved):
            if saved:  # and another node's part is not
                shutil.rmtree(folder, ignore_errors=True)
            return False
        best = self.best.step if self.best else None
        prune(parent, self._kept.keep_last, best)
        self._run.checkpoint(step, folder, size, self._loss, step == best)
        return True

    def _follow(self, fresh: Path) -> bool:
        if not all_agree(True):
            return False
        with contextlib.suppress(OSError, RuntimeError, SafetensorError):  # the first process says it
            self._fill(fresh)
        return all_agree(True)

    def _fill(self, folder: Path) -> None:
        """Part by part, all processes at the same one. Raises OSError, RuntimeError or SafetensorError."""
        parts: list[Callable[[], object]] = [
            lambda: self._write(folder),
            *self._trainer.state_parts(folder),
            lambda: self._write_progress(folder),
        ]
        for part in parts:
            error: Exception | None = None
            try:
                part()
            except (OSError, RuntimeError, SafetensorError) as found:
                error = found
            if not all_agree(error is None):
                raise error or OSError("another process could not write its part.")

    def _write_progress(self, folder: Path) -> None:
        trainer = self._trainer
        data = trainer.feed.state() if trainer.feed else None
        pending = trainer.pending_loss()
        if not self._run.leads:
            return
        trainer.state.save_to_json(str(folder / STATE_FILE))
        progress = {
            "pending_loss": pending,
            "logged_step": trainer._globalstep_last_logged,
            "tokens": int(trainer._total_train_tokens),
            "losses": [self._narrator.losses[0], self._narrator.losses[-1]],
            "seconds": round(self.seconds, 3),
            "results": self._results,
            "best": self.best._asdict() if self.best else None,
            "data": data,
        }
        (folder / PROGRESS_FILE).write_text(json.dumps(progress))


def prune(parent: Path, kept: int, best: int | None) -> None:
    """Remove all checkpoints but the newest ones and the best; each goes out of sight before it is taken apart."""
    steps = sorted(int(path.name.removeprefix("step-")) for path in parent.glob("step-*"))
    for step in steps[:-kept]:
        if step == best:
            continue
        with contextlib.suppress(OSError):
            (parent / f"step-{step}").rename(parent / ".old")
        shutil.rmtree(parent / ".old", ignore_errors=True)
