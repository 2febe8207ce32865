"""Puts a run's checkpoints into the artifact store while it runs, the newest first, and says so in its spool.

One that waits too long is passed over for a newer one; the last two stay in the store. Doesn't know what a checkpoint
holds nor who may store it.
"""

import contextlib
import logging
import shutil
import threading
import time
from pathlib import Path

from workers.artifacts import Allowed, ArtifactStore, Withheld
from workers.contract.events import Checkpoint, Log
from workers.contract.names import CHECKPOINTS_DIR
from workers.spool import Spool
from workers.whole import step_of

log = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints of an attempt that stay in the store."""

LEAVING = ".leaving"
"""Below the run's checkpoints: the one on its way to the store, out of reach of the child that removes old ones."""


class Uploads:
    """A thread for the checkpoints of one attempt. `take` may be called by another thread."""

    def __init__(self, spool: Spool, store: ArtifactStore, result_uri: str, allowed: Allowed) -> None:
        """`allowed` is asked before each upload and before it becomes visible."""
        self._spool = spool
        self._store = store
        self._uri = f"{result_uri.rstrip('/')}/{CHECKPOINTS_DIR}"
        self._may_store = allowed
        self._folder = spool.run_dir / CHECKPOINTS_DIR
        self._stored: list[int] = []
        self._next: int | None = None
        self._busy = False
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"checkpoints-{spool.run_dir.name}", daemon=True)

    def start(self) -> None:
        """The run may hold a checkpoint of an earlier attempt that never reached the store: it is the first to go."""
        self._next = max(map(step_of, self._folder.glob("step-*")), default=0) or None
        self._thread.start()

    def take(self, said: Checkpoint) -> None:
        """The child has made the checkpoint of a step. Only the step counts of what it says."""
        with self._change:
            self._next = said.step
            self._change.notify_all()

    def finish(self, timeout_s: float) -> bool:
        """Wait for what is under way and then take no more. Whether all was done in time."""
        until = time.monotonic() + timeout_s
        with self._change:
            while (self._next is not None or self._busy) and (left := until - time.monotonic()) > 0:
                self._change.wait(left)
            done = self._next is None and not self._busy
            self._closed, self._next = True, None
            self._change.notify_all()
        return done

    def _run(self) -> None:
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                while self._next is None and not self._closed:
                    self._change.wait()
                if self._next is None:
                    return
                step, self._next, self._busy = self._next, None, True
            try:
                self._upload(step)
            except Withheld:
                log.info("Run %s: the checkpoint of step %d may not be stored any more.", self._name, step)
            except Exception as error:
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

    def _upload(self, step: int) -> None:
        try:
            leaving = self._set_aside(step)
        except FileNotFoundError:
            log.info("Run %s: the checkpoint of step %d was removed for newer ones.", self._name, step)
            return
        if not self._allowed():
            raise Withheld
        uri = f"{self._uri}/step-{step}"
        size, sha256 = self._store.put(leaving, uri, self._allowed)
        self._spool.append(Checkpoint(step=step, uri=uri, bytes=size, sha256=sha256))
        shutil.rmtree(leaving, ignore_errors=True)
        self._stored = [*(old for old in self._stored if old != step), step]
        for old in self._stored[:-KEPT]:
            self._store.remove(f"{self._uri}/step-{old}")
        self._stored = self._stored[-KEPT:]

    def _set_aside(self, step: int) -> Path:
        leaving = self._folder / LEAVING
        shutil.rmtree(leaving, ignore_errors=True)
        (self._folder / f"step-{step}").rename(leaving)
        return leaving
