"""Carries out one attempt: claim, fetch, start, watch, store, and exactly one Finished at the end.

Whatever happens, the last event says why it ended, and no process of the run is left. Doesn't know Celery, nor what
the child does.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from workers.afar import ArtifactMissing, reason_of
from workers.artifacts import Withheld
from workers.child import Child, child_command, child_environment, signal_name
from workers.contract.events import AnyEvent, Envelope, Finished, Log, Started
from workers.contract.launch import LaunchSpec
from workers.contract.names import UnsafeURI
from workers.contract.order import Order
from workers.contract.reasons import Outcome, Reason
from workers.guard import GRACE_S
from workers.held import End, Held, Identity, Interruption, Place
from workers.inputs import localised, write_order
from workers.listening import Listener
from workers.nvml import open_nvml
from workers.output import Redactor
from workers.results import upload
from workers.sampling import SAMPLE_INTERVAL_S, Sampler
from workers.shipping import Shipper
from workers.sinks import EventSink
from workers.spool import Spool, run_dir_name
from workers.uploads import Uploads

log = logging.getLogger(__name__)

Value = TypeVar("Value")

LAST_WORD_S = 30.0
"""A child that has said Failed and doesn't end is ended after this."""

SHIPPING_S = 2.0
"""How long the end of an attempt waits for its events to be delivered; the shipper goes on by itself."""

_POLL_S = 0.1
_WRITE_TRIES = 30


class _Interrupted(Exception):
    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption
        self.end = interruption.end


def run_attempt(order: Order, held: Held, place: Place, command: Sequence[str] | None = None) -> Reason | None:
    """Run one attempt to its end; the reason, or None when it was claimed before (a duplicate delivery).

    `held` tells it what it must know meanwhile. `command`: run this instead of `workers.runtimes`.
    Raises nothing: what goes wrong is in the Finished event.
    """

    def carry_out(spool: Spool) -> End:
        return _Attempt(order, held, spool, place).carry_out(command)

    return _attempt(held, place, carry_out)


def refuse_attempt(held: Held, end: End, place: Place) -> Reason | None:
    """End an attempt whose order can't even be read. As `run_attempt`."""
    return _attempt(held, place, lambda _spool: end)


def _attempt(held: Held, place: Place, carry_out: Callable[[Spool], End]) -> Reason | None:
    run_dir = place.runs_dir.resolve() / run_dir_name(*held.identity)
    try:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        if not _claim(run_dir):
            log.info("Attempt %s was started before; this order is a duplicate.", run_dir.name)
            return None
        spool = held.spool = Spool(run_dir, *held.identity)
    except OSError as error:
        detail = f"The node cannot write to {place.runs_dir}: {error.strerror}."
        return _refuse_without_disk(held.identity, place.sink, detail)
    shipper = Shipper(spool, place.sink).start()
    log.info("Attempt %s starts.", run_dir.name)
    try:
        end = carry_out(spool)
    except Exception as error:
        log.exception("Attempt %s ended with an error of the worker.", run_dir.name)
        end = End(reason_of(error), f"The worker could not carry out the run: {type(error).__name__}: {error}")
    _write_end(spool, end)
    shipper.wait(SHIPPING_S)
    log.info("Attempt %s ended: %s. %s", run_dir.name, end.reason, end.detail)
    return end.reason


def _claim(run_dir: Path) -> bool:
    """Make the run directory; False when it is there, and so the attempt is taken."""
    try:
        run_dir.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _write_end(spool: Spool, end: End) -> None:
    """On a full disk, try for half a minute; after that recovery writes it at the worker's next start."""
    for _ in range(_WRITE_TRIES):
        try:
            spool.append(Finished(reason=end.reason, detail=end.detail))
        except OSError as error:
            log.warning("Run %s: its end cannot be written (%s).", spool.run_dir.name, error)
            time.sleep(1)
        else:
            return


def _refuse_without_disk(identity: Identity, sink: EventSink, detail: str) -> Reason:
    job, attempt, token = identity
    log.error("Attempt %s: %s", run_dir_name(*identity), detail)
    finished = Finished(reason=Reason.CRASHED, detail=detail)
    try:
        sink.ship([Envelope(job=job, attempt=attempt, token=token, seq=1, at=time.time(), event=finished)])
    except ConnectionError as error:
        log.error("Attempt %s: nor can that be told (%s).", run_dir_name(*identity), error)
    return Reason.CRASHED


class _Attempt:
    """The middle of an attempt, between claim and Finished."""

    def __init__(self, order: Order, held: Held, spool: Spool, place: Place) -> None:
        self._order = order
        self._held = held
        self._spool = spool
        self._run_dir = spool.run_dir
        self._store = place.store
        self._most_bytes = place.spool_limit_bytes

    def carry_out(self, command: Sequence[str] | None) -> End:
        try:
            self._unless_told(self._held.make_way)  # an order that comes late may be another attempt's by now
            self._order = self._unless_told(lambda: localised(self._order, self._store, self._append, self._run_dir))
            write_order(self._order, self._run_dir)
            self._unless_told(self._held.make_way)
            self._raise_if_told()
            end = self._run_child(command or child_command(self._run_dir))
            return self._store_results() if end.reason is Reason.COMPLETED else end
        except _Interrupted as interrupted:
            return interrupted.end
        except ArtifactMissing as error:
            return End(reason_of(error), str(error))
        except UnsafeURI as error:
            return End(Reason.INVALID_INPUT, str(error))

    def _run_child(self, command: Sequence[str]) -> End:
        child = Child(command, child_environment(self._order, self._run_dir, os.environ), self._run_dir)
        known_secrets = [self._order.serve_token] if self._order.serve_token else []
        uploads = Uploads(self._spool, self._store, self._order, self._held.may_store)
        listener = Listener(
            self._spool,
            Redactor(known_secrets),
            child.output_fd,
            child.events_fd,
            uploads.take,
            log_bytes=self._most_bytes // 2,
        )
        uploads.start()
        try:
            end = self._end_of(child, listener)
            lasting = end.reason not in (Reason.COMPLETED, Reason.CANCELLED, Reason.NODE_LOST)
            uploads.finish(self._held.stop_grace_s if lasting else 0)
        finally:
            uploads.finish(0)
        return end

    def _end_of(self, child: Child, listener: Listener) -> End:
        told: Interruption | None = None
        try:
            self._spool.append(Started(pid=child.pid, run_dir=str(self._run_dir), resumed_from=self._order.resume_step))
            listener.start()
            status = self._watch(child, listener)
        except _Interrupted as interrupted:
            told = interrupted.interruption
            status = self._wind_down(child, told)
        finally:
            child.stop(0 if told else GRACE_S)
            listener.join(timeout_s=5)
        return self._after(told, status) if told else self._explain(status, listener)

    def _wind_down(self, child: Child, told: Interruption) -> int:
        """Let the child end by itself within the grace period, unless something graver comes; its exit status."""
        child.ask(told.grace_s)
        until = time.monotonic() + told.grace_s
        while (status := child.ended(_POLL_S)) is None and time.monotonic() < until:
            graver = self._held.told(hard_only=True)
            if graver and time.monotonic() + graver.grace_s < until:
                until = time.monotonic() + graver.grace_s
                child.ask(graver.grace_s)
        return child.stop(0) if status is None else status

    def _after(self, told: Interruption, status: int) -> End:
        """A child that came to its end while it was given time has completed; a served model has no such end."""
        if graver := self._held.told(hard_only=True):
            return graver.end
        if told.soft and status == 0 and not isinstance(self._order.spec, LaunchSpec):
            return End(Reason.COMPLETED)
        return told.end

    def _watch(self, child: Child, listener: Listener) -> int:
        """Sample until the child ends; its exit status. Raises _Interrupted, or OSError when the disk is full."""
        nvml = open_nvml() if any(device.kind == "cuda" for device in self._order.devices) else None
        sampler = Sampler(child.guard_pid, self._order.devices, nvml)
        sample_at = time.monotonic() + SAMPLE_INTERVAL_S
        while (status := child.ended(_POLL_S)) is None:
            self._raise_if_told()
            if self._spool.size > self._most_bytes:
                raise _Interrupted(Interruption(End(Reason.CRASHED, self._too_much()), GRACE_S))
            if listener.broken:
                raise listener.broken
            now = time.monotonic()
            if listener.failed and now > listener.failed_at + LAST_WORD_S:
                return child.stop()
            if now >= sample_at:
                self._spool.append(sampler.sample())
                sample_at = now + SAMPLE_INTERVAL_S
        return status

    def _too_much(self) -> str:
        limit = f"{self._most_bytes / 1024**2:g} MiB"
        return f"The run wrote more than {limit} of events and log, the most a run may (LIFTOFF_SPOOL_LIMIT_MIB)."

    def _explain(self, status: int, listener: Listener) -> End:
        # A service manager may have told the child to stop before it told us.
        if status != 0:
            self._held.stop.wait(0.3)
            if told := self._held.told():
                return told.end
        if listener.failed:
            said = listener.failed
            reason = said.reason if said.reason.outcome is Outcome.FAILED else Reason.CRASHED
            return End(reason, said.detail)
        line = listener.last_error_line()
        if status == 0:
            return End(Reason.COMPLETED)
        if status < 0:
            return End(Reason.KILLED, f"Ended by {signal_name(-status)}." + (f" Last line: {line}" if line else ""))
        return End(Reason.CRASHED, f"Exit status {status}: {line or 'nothing was printed.'}")

    def _store_results(self) -> End:
        def store() -> None:
            for artifact in upload(self._run_dir, self._order.result_uri, self._store, self._held.may_store):
                self._spool.append(artifact)

        try:
            # What is done is done: only a word that can't wait keeps it from being stored.
            self._unless_told(store, hard_only=True)
        except Withheld:
            self._raise_if_told()
            raise
        except (ArtifactMissing, OSError, UnsafeURI) as error:
            return End(reason_of(error), f"The run completed, but its output could not be stored: {error}")
        return End(Reason.COMPLETED)

    def _say(self, text: str) -> None:
        self._spool.append(Log(stream="supervisor", text=text))

    def _append(self, event: AnyEvent) -> None:
        """Write an event of work that is to end when the run is."""
        if interruption := self._held.told():
            raise _Interrupted(interruption)
        self._spool.append(event)

    def _raise_if_told(self, hard_only: bool = False) -> None:
        if interruption := self._held.told(hard_only):
            self._say(f"Stopping: {interruption.end.reason.sentence}")
            raise _Interrupted(interruption)

    def _unless_told(self, work: Callable[[], Value], hard_only: bool = False) -> Value:
        """Do slow work that can't be interrupted in a thread that can be left alone."""
        self._raise_if_told(hard_only)
        results: list[Value] = []
        errors: list[BaseException] = []

        def do() -> None:
            try:
                results.append(work())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=do, name=f"work-{self._run_dir.name}", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_S)
            if thread.is_alive():
                self._raise_if_told(hard_only)
        if errors:
            raise errors[0]
        return results[0]
