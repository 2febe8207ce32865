"""The attempts a worker holds: starts them, tells them what the portal says, remembers a word that comes first.

Knows orders as plain dictionaries, as they come off the queue. Doesn't know Celery.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from workers.child import kill_run
from workers.contract.base import UnknownVersion
from workers.contract.events import RunningAttempt
from workers.contract.launch import LaunchSpec
from workers.contract.order import Order
from workers.contract.reasons import Reason
from workers.contract.stopping import STOP_GRACE_S
from workers.guard import GRACE_S
from workers.held import End, Held, Identity, Place
from workers.leases import Lease, LeaseBook, LeaseWatch
from workers.shipping import send_again
from workers.spool import run_dir_name
from workers.supervisor import refuse_attempt, run_attempt

log = logging.getLogger(__name__)

_REMEMBERED = 10_000

Key = tuple[int, int]
"""(job, attempt)."""


@dataclass
class Desk:
    """Threads may share it."""

    node: str
    place: Place
    book: LeaseBook
    command: Sequence[str] | None = None
    """Run this for every order instead of `workers.runtimes`."""
    stop_grace_s: float = STOP_GRACE_S
    stop: threading.Event = field(default_factory=threading.Event)
    """Ends all attempts; later orders end at once."""
    leases: LeaseWatch = field(default_factory=LeaseWatch)
    """Started by whoever owns the desk."""
    _held: dict[Identity, Held] = field(default_factory=dict)
    _cancels: dict[Key, None] = field(default_factory=dict)
    _preempts: dict[Key, None] = field(default_factory=dict)
    _revoked: dict[Identity, None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def running(self) -> tuple[RunningAttempt, ...]:
        with self._lock:
            return tuple(self._held[identity].running for identity in sorted(self._held))

    def start(self, order: dict[str, Any]) -> Reason | None:
        """Run an order to its end; None when it was a duplicate, revoked, or named no attempt. Raises nothing."""
        key = _key_of(order)
        if key is None:
            log.error("An order without a job and attempt number is ignored.")
            return None
        held = Held(*key, _token_of(order), stop=self.stop, stop_grace_s=self.stop_grace_s)
        with self._lock:
            if held.identity in self._held:
                log.info("Attempt %s-%s runs already; this order is a duplicate.", *key)
                return None
            if held.identity in self._revoked:
                log.info("Attempt %s-%s was revoked before it came; its order is ignored.", *key)
                return None
            self._held[held.identity] = held
            if key in self._cancels:
                held.cancel.set()
            if key in self._preempts:
                held.preempt.set()
        try:
            return self._run(held, order)
        finally:
            with self._lock:
                del self._held[held.identity]
                self._cancels.pop(key, None)
                self._preempts.pop(key, None)
            held.over.set()
            if held.lease:
                self.leases.discard(held.lease)

    def cancel(self, job: int, attempt: int) -> None:
        """End an attempt, now or as soon as it comes; one that is over is left alone."""
        with self._lock:
            _remember(self._cancels, (job, attempt))
            for held in self._of(job, attempt):
                held.cancel.set()

    def preempt(self, job: int, attempt: int) -> None:
        """End an attempt once it has saved its work; one that comes later ends at once."""
        with self._lock:
            _remember(self._preempts, (job, attempt))
            for held in self._of(job, attempt):
                held.preempt.set()

    def revoke(self, job: int, attempt: int, token: str) -> None:
        """The attempt's lease is gone: end it and write nothing more; one that comes later is never started.

        Of one that isn't held, whatever is left of its processes is killed.
        """
        with self._lock:
            _remember(self._revoked, (job, attempt, token))
            held = self._held.get((job, attempt, token))
            if held:
                held.revoked.set()
        if held is None:
            name = run_dir_name(job, attempt, token)
            if killed := kill_run(self.place.runs_dir.resolve() / name):
                log.warning("Run %s was over; killed %d processes that it had left.", name, killed)

    def resend(self, job: int, attempt: int, token: str, after_seq: int) -> None:
        """Send the events of a run after that one again, if the run is known here."""
        with self._lock:
            running = (job, attempt, token) in self._held
        run_dir = self.place.runs_dir.resolve() / run_dir_name(job, attempt, token)
        send_again(run_dir, after_seq, self.place.sink, running)

    def _of(self, job: int, attempt: int) -> list[Held]:
        return [held for held in self._held.values() if (held.job, held.attempt) == (job, attempt)]

    def _beside(self, held: Held) -> list[Held]:
        with self._lock:
            return [other for other in self._held.values() if other is not held and other.devices & held.devices]

    def _run(self, held: Held, raw: dict[str, Any]) -> Reason | None:
        try:
            order = Order.model_validate(raw)
        except ValidationError as error:
            return refuse_attempt(held, _refusal(error), self.place)
        if order.node != self.node:
            end = End(Reason.INVALID_INPUT, f"node: the order is for {order.node!r} and came to {self.node!r}.")
            return refuse_attempt(held, end, self.place)
        if isinstance(order.spec, LaunchSpec):
            held.cancel_grace_s = order.spec.drain_s + GRACE_S
        held.devices = frozenset((device.kind, device.index) for device in order.devices)
        held.beside = lambda: self._beside(held)
        held.lease = Lease(self.book, *held.identity, order.lease_s, held.revoked)
        self.leases.add(held.lease)
        return run_attempt(order, held, self.place, self.command)


def _remember(words: dict[Any, None], key: object) -> None:
    """Keep a word for an order that may come; of many, the latest."""
    words.pop(key, None)
    words[key] = None
    for old in list(words)[:-_REMEMBERED]:
        del words[old]


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
