"""What every runtime is given (`Run`) and how it ends badly (`RunFailed`).

Turns order.json into a `Run`, and calls of the runtime into event lines. Doesn't know what a runtime does, nor who
reads its events; imports no torch.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ValidationError

from workers.contract.base import UnknownVersion
from workers.contract.events import Checkpoint, Failed, Metric, Phase, Progress, Ready, Result
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec
from workers.contract.names import EVENTS_FD_ENV, EVENTS_PIPE_ENV, ORDER_FILE, OUTPUT_DIR
from workers.contract.order import AdapterInput, DatasetInput, ModelInput, Order
from workers.contract.reasons import Reason
from workers.runtimes.team import local_rank, rank

STOPPED_EXIT = 1
"""Exit status of a run that SIGTERM ended before it was done."""


class RunFailed(Exception):
    """A known way to fail. `detail` is one sentence that names what was wrong and what would work."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def invalid(detail: str) -> RunFailed:
    """The order cannot be carried out as it is written."""
    return RunFailed(Reason.INVALID_INPUT, detail)


def missing(detail: str) -> RunFailed:
    """A file the order names is not there."""
    return RunFailed(Reason.ARTIFACT_MISSING, detail)


class Emitter:
    """Writes events as JSON lines to one file descriptor, whole lines from any thread."""

    def __init__(self, descriptor: int, only: tuple[type[BaseModel], ...] = ()) -> None:
        """`only`: events to send of a process that isn't the first of its run; without it, all."""
        self._descriptor = descriptor
        self._only = only
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Emitter":
        """The pipe that the processes of a run share, or the descriptor named by LIFTOFF_EVENTS_FD, else standard
        output."""
        if EVENTS_PIPE_ENV in environment:
            told = (Failed, Checkpoint) if local_rank() == 0 else (Failed,)
            return cls(os.open(environment[EVENTS_PIPE_ENV], os.O_WRONLY), told if rank() > 0 else ())
        named = environment.get(EVENTS_FD_ENV)
        return cls(int(named) if named else sys.stdout.fileno())

    def emit(self, event: BaseModel) -> None:
        if not self._only or isinstance(event, self._only):
            self.write((event.model_dump_json() + "\n").encode())

    def write(self, line: bytes) -> None:
        """One event as it is sent, with its end of line."""
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]


class Runtime(Protocol):
    """A runtime is a function: it carries out the run and returns, or raises RunFailed."""

    def __call__(self, run: "Run") -> None: ...


@dataclass
class Run:
    """One attempt: its order, its place on disk, its voice."""

    order: Order
    run_dir: Path
    emitter: Emitter
    on_stop: list[Callable[[], None]] = field(default_factory=list)
    """What SIGTERM calls instead of ending the process; empty means the process ends at once."""
    began: float = field(default_factory=time.monotonic)
    """Monotonic seconds, before the runtime and its libraries were loaded."""

    @property
    def output_dir(self) -> Path:
        """RUN_DIR/output, made on first use; all in it is uploaded when the run succeeds."""
        path = self.run_dir / OUTPUT_DIR
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def leads(self) -> bool:
        """Whether this is the run's first process, or its only one: it writes what there is one of."""
        return rank() == 0

    @property
    def device_kind(self) -> str:
        """'cuda' or 'cpu'."""
        return self.order.devices[0].kind if self.order.devices else "cpu"

    @property
    def finetune_spec(self) -> FinetuneSpec:
        if not isinstance(self.order.spec, FinetuneSpec):
            raise invalid(f"spec.kind: {self.order.spec.kind!r} is no fine-tune.")
        return self.order.spec

    @property
    def launch_spec(self) -> LaunchSpec:
        if not isinstance(self.order.spec, LaunchSpec):
            raise invalid(f"spec.kind: {self.order.spec.kind!r} is no launch.")
        return self.order.spec

    @property
    def model(self) -> ModelInput:
        if self.order.model is None:
            raise invalid(f"model: the order names none, and a {self.order.spec.kind} needs one.")
        return self.order.model

    @property
    def dataset(self) -> DatasetInput:
        if self.order.dataset is None:
            raise invalid("dataset: the order names none, and a fine-tune needs one.")
        return self.order.dataset

    @property
    def adapter(self) -> AdapterInput | None:
        return self.order.adapter

    def phase(self, name: str) -> None:
        self.say(f"{name[:1].upper()}{name[1:]} …")
        self.emitter.emit(Phase(name=name))

    def say(self, line: str) -> None:
        """A line for the run's log, by its first process. Events may have standard output, so it goes to standard
        error."""
        if self.leads:
            print(line, file=sys.stderr, flush=True)

    def progress(self, done: float, total: float, unit: str, eta_s: float | None = None) -> None:
        self.emitter.emit(Progress(done=done, total=total, unit=unit, eta_s=eta_s))

    def metric(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.emitter.emit(Metric(step=step, values=dict(values)))

    def result(self, name: str, values: Mapping[str, Any]) -> None:
        self.emitter.emit(Result(name=name, values=dict(values)))
        shown = ", ".join(f"{key} {value:.4g}" for key, value in values.items() if isinstance(value, int | float))
        if shown:
            self.say(f"{name.replace('_', ' ')}: {shown}")

    def ready(self, url: str, model: str) -> None:
        self.emitter.emit(Ready(url=url, model=model))

    def checkpoint(self, step: int, folder: Path, size: int, loss: float | None = None, best: bool = False) -> None:
        """`folder`, below the run directory, holds the whole state after `step`, in `size` bytes."""
        uri = str(folder.relative_to(self.run_dir))
        self.emitter.emit(Checkpoint(step=step, uri=uri, bytes=size, loss=loss, best=best))

    def failed(self, reason: Reason, detail: str) -> None:
        self.emitter.emit(Failed(reason=reason, detail=detail))


class Pace:
    """Seconds to go, from the mean pace since the start: (total - done) * elapsed / done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()

    def eta_s(self, done: float, total: float) -> float | None:
        """None before anything is done."""
        if done <= 0:
            return None
        return round((total - done) * (self._clock() - self._start) / done, 1)


def local_path(uri: str, field_name: str) -> Path:
    """The path behind a plain path or file:// URI. Raises RunFailed when it is another scheme or nothing is there."""
    split = urlsplit(uri)
    if split.scheme == "file":
        path = Path(unquote(split.path))
    elif split.scheme == "":
        path = Path(uri)
    else:
        raise invalid(f"{field_name}: {uri!r} is not local; the supervisor gives a run only local paths.")
    if not path.exists():
        raise missing(f"{field_name}: nothing is at {str(path)!r}.")
    return path


def load_order(run_dir: Path) -> Order:
    """Read RUN_DIR/order.json. Raises RunFailed: artifact_missing, unsupported_spec or invalid_input."""
    path = run_dir / ORDER_FILE
    try:
        return Order.model_validate_json(path.read_bytes())
    except OSError as error:
        raise missing(f"{ORDER_FILE}: cannot be read in {str(run_dir)!r} ({error.strerror}).") from error
    except UnknownVersion as error:
        raise RunFailed(Reason.UNSUPPORTED_SPEC, f"spec_version: {error}") from error
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> RunFailed:
    problems = error.errors()
    for problem in problems:
        where = ".".join(str(part) for part in problem["loc"])
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, UnknownVersion):
            return RunFailed(Reason.UNSUPPORTED_SPEC, f"{where}: {cause}")
        if problem["type"] == "union_tag_invalid":
            return RunFailed(Reason.UNSUPPORTED_SPEC, f"{where}: {problem['msg']}")
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or ORDER_FILE
    given = json.dumps(first.get("input"), default=str)
    return invalid(f"{where}: {first['msg']} (given: {given[:200]}).")
