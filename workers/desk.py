"""The attempts a worker holds: starts them, cancels them, remembers a cancel that comes first.

Knows orders as plain dictionaries, as they come off the queue. Doesn't know Celery.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workers.artifacts import ArtifactStore
from workers.contract.events import RunningAttempt
from workers.contract.reasons import Reason
from workers.contract.spec import Order, UnknownVersion
from workers.sinks import EventSink
from workers.supervisor import End, refuse_attempt, run_attempt

log = logging.getLogger(__name__)

_REMEMBERED_CANCELS = 10_000

Key = tuple[int, int]
"""(job, attempt)."""


@dataclass
class Desk:
    """Threads may share it."""

    node: str
    runs_dir: Path
    store: ArtifactStore
    sink: EventSink
    command: Sequence[str] | None = None
    """Run this for every order instead of `workers.runtimes`."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Ends all attempts; later orders end at once."""
    _cancels: dict[Key, threading.Event] = field(default_factory=dict)
    _running: set[Key] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def running(self) -> tuple[RunningAttempt, ...]:
        with self._lock:
            return tuple(RunningAttempt(job=job, attempt=attempt) for job, attempt in sorted(self._running))

    def start(self, order: dict[str, Any]) -> Reason | None:
        """Run an order to its end; None when it was a duplicate or named no attempt. Raises nothing."""
        key = _key_of(order)
        if key is None:
            log.error("An order without a job and attempt number is ignored.")
            return None
        with self._lock:
            if key in self._running:
                log.info("Attempt %s-%s runs already; this order is a duplicate.", *key)
                return None
            self._running.add(key)
            cancel = self._cancels.setdefault(key, threading.Event())
        try:
            return self._run(key, order, cancel)
        finally:
            with self._lock:
                self._running.discard(key)
                self._cancels.pop(key, None)

    def cancel(self, job: int, attempt: int) -> None:
        """End an attempt, now or as soon as it comes; one that is over is left alone."""
        with self._lock:
            self._cancels.setdefault((job, attempt), threading.Event()).set()
            waiting = [key for key in self._cancels if key not in self._running]
            for key in waiting[:-_REMEMBERED_CANCELS]:
                del self._cancels[key]

    def _run(self, key: Key, raw: dict[str, Any], cancel: threading.Event) -> Reason | None:
        try:
            order = Order.model_validate(raw)
        except ValidationError as error:
            return refuse_attempt((*key, _token_of(raw)), _refusal(error), runs_dir=self.runs_dir, sink=self.sink)
        if order.node != self.node:
            end = End(Reason.INVALID_INPUT, f"node: the order is for {order.node!r} and came to {self.node!r}.")
            return refuse_attempt((*key, order.token), end, runs_dir=self.runs_dir, sink=self.sink)
        return run_attempt(
            order,
            runs_dir=self.runs_dir,
            store=self.store,
            sink=self.sink,
            cancel=cancel,
            stop=self.stop,
            command=self.command,
        )


def _key_of(order: object) -> Key | None:
    if not isinstance(order, dict):
        return None
    job, attempt = order.get("job"), order.get("attempt")
    return (job, attempt) if type(job) is int and type(attempt) is int and attempt > 0 else None


def _token_of(order: dict[str, Any]) -> str:
    """The token of an order that can't be read otherwise; '' when it is none."""
    token = order.get("token")
    return token if isinstance(token, str) and len(token) <= 64 and token.isascii() and token.isalnum() else ""


def _refusal(error: ValidationError) -> End:
    """A newer portal's order is unsupported; any other that can't be read is invalid."""
    problems = error.errors(include_url=False)
    for problem in problems:
        where = ".".join(str(part) for part in problem["loc"])
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, UnknownVersion):
            return End(Reason.UNSUPPORTED_SPEC, f"{where}: {cause}")
        if problem["type"] == "union_tag_invalid":
            return End(Reason.UNSUPPORTED_SPEC, f"{where}.kind: {problem['msg']}.")
    first = problems[0]
    return End(Reason.INVALID_INPUT, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}.")
