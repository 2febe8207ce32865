"""Puts a run's checkpoints into the artifact store while it runs, the newest first, and says so in its spool.

One that waits too long is passed over for a newer one, unless it is the best; the newest few and the best stay in the
store. Doesn't know what a checkpoint holds nor who may store it.
"""

import contextlib
import logging
import shutil
import threading
import time
from pathlib import Path

from workers.artifacts import Allowed, ArtifactStore, Withheld
from workers.contract.events import Checkpoint, Log
from workers.contract.finetune import FinetuneSpec
from workers.contract.names import CHECKPOINTS_DIR
from workers.contract.order import Order
from workers.spool import Spool
from workers.whole import step_of

log = logging.getLogger(__name__)

LEAVING = ".leaving"
"""Below the run's checkpoints: the one on its way to the store, out of reach of the child that removes old ones."""


class Uploads:
    """A thread for the checkpoints of one attempt. `take` may be called by another thread."""

    def __init__(self, spool: Spool, store: ArtifactStore, order: Order, allowed: Allowed) -> None:
        """`allowed` is asked before each upload and before it becomes visible."""
        self._spool = spool
        self._store = store
        self._uri = f"{order.result_uri.rstrip('/')}/{CHECKPOINTS_DIR}"
        self._may_store = allowed
        self._folder = spool.run_dir / CHECKPOINTS_DIR
        self._kept = order.spec.checkpoints.keep_last if isinstance(order.spec, FinetuneSpec) else 1
        self._of_several = order.team is not None
        if self._of_several:
            self._kept = max(self._kept, 2)  # one at least until every node has stored its part of the next
        self._stored: list[Checkpoint] = []
        self._waiting: list[Checkpoint] = []
        self._busy = False
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"checkpoints-{spool.run_dir.name}", daemon=True)

    def start(self) -> None:
        """The run may hold a checkpoint of an earlier attempt that never reached the store: it is the first to go."""
        if step := max(map(step_of, self._folder.glob("step-*")), default=0):
            self.take(Checkpoint(step=step, uri="", bytes=0))
        self._thread.start()

    def take(self, said: Checkpoint) -> None:
        """The child has made the checkpoint of a step. Where it is and how large counts for nothing."""
        with self._change:
            self._waiting = [said, *(one for one in self._waiting if one.best and not said.best)]
            self._change.notify_all()

    def finish(self, timeout_s: float) -> bool:
        """Wait for what is under way and then take no more. Whether all was done in time."""
        until = time.monotonic() + timeout_s
        with self._change:
            while (self._waiting or self._busy) and (left := until - time.monotonic()) > 0:
                self._change.wait(left)
            done = not self._waiting and not self._busy
            self._closed, self._waiting = True, []
            self._change.notify_all()
        return done

    def _run(self) -> None:
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                while not self._waiting and not self._closed:
                    self._change.wait()
                if not self._waiting:
                    return
                said, self._busy = self._waiting.pop(0), True
            step = said.step
            try:
                self._upload(said)
            except Withheld:
                log.info("Run %s: the checkpoint of step %d may not be stored any more.", self._name, step)
            except Exception as error:
                if self._of_several:
                    shutil.rmtree(self._folder / LEAVING, ignore_errors=True)  # the others wait for nothing
                log.warning("Run %s: the checkpoint of step %d can't be stored.", self._name, step, exc_info=True)
                with contextlib.suppress(OSError):
                    self._spool.append(
                        Log(stream="supervisor", text=f"The checkpoint of step {step} could not be stored: {error}")
                    )

    def _allowed(self) -> bool:
        return self._may_store() and not self._closed

    @property
    def _name(self) -> str:
        return self._spool.run_dir.name

    def _upload(self, said: Checkpoint) -> None:
        step = said.step
        try:
            leaving = self._set_aside(step)
        except FileNotFoundError:
            log.info("Run %s: the checkpoint of step %d was removed for newer ones.", self._name, step)
            return
        if not self._allowed():
            raise Withheld
        uri = self._place(step)
        size, sha256 = self._store.put(leaving, uri, self._allowed)
        self._spool.append(said.model_copy(update={"uri": uri, "bytes": size, "sha256": sha256}))
        shutil.rmtree(leaving, ignore_errors=True)
        stored = sorted([*(old for old in self._stored if old.step != step), said], key=lambda one: one.step)
        best = [one for one in stored[: -self._kept] if one.best][-1:]
        if any(one.best for one in stored[-self._kept :]):
            best = []
        self._stored = [*best, *stored[-self._kept :]]
        for old in stored:
            if old not in self._stored:
                self._store.remove(self._place(old.step))

    def _place(self, step: int) -> str:
        return f"{self._uri}/step-{step}"

    def _set_aside(self, step: int) -> Path:
        leaving = self._folder / LEAVING
        shutil.rmtree(leaving, ignore_errors=True)
        (self._folder / f"step-{step}").rename(leaving)
        return leaving
