"""Sends a spool to the sink: in batches, in order, from the offset on disk, for as long as it takes.

While the sink is away events wait on disk, not in memory. Asked to, it sends again from an earlier event on. Doesn't
know what the sink is, nor who may write to it.
"""

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import ClassVar

from workers.contract.names import SPOOL_FILE
from workers.sinks import EventSink
from workers.spool import Spool

log = logging.getLogger(__name__)

LINGER_S = 0.075
"""Events of this span travel together."""

FIRST_RETRY_S = 0.2
LONGEST_RETRY_S = 2.0


class Shipper:
    """A thread that ships one spool until its Finished is delivered."""

    live: ClassVar[set["Shipper"]] = set()
    """All shippers of this process that have something left to ship; the exporter and the shutdown look here."""
    shipped_events: ClassVar[int] = 0
    """Events delivered by this process."""
    _count_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, spool: Spool, sink: EventSink) -> None:
        self._spool = spool
        self._sink = sink
        self._offset = min(spool.shipped, spool.size)
        self._rewind_to: int | None = None
        self._rewind_lock = threading.Lock()
        self._over = False
        self._done = threading.Event()
        self._name = spool.run_dir.name
        self._thread = threading.Thread(target=self._run, name=f"ship-{self._name}", daemon=True)

    def start(self) -> "Shipper":
        with Shipper._count_lock:
            Shipper.live.add(self)
        self._thread.start()
        return self

    @property
    def waiting_bytes(self) -> int:
        """Spooled and not yet delivered."""
        return max(self._spool.size - self._offset, 0)

    def wait(self, timeout_s: float) -> bool:
        """Whether everything up to Finished was delivered within the time. The thread goes on if not."""
        return self._done.wait(timeout_s) and self.waiting_bytes == 0

    def rewind(self, after_seq: int) -> bool:
        """Send everything after that event again. False when this shipper is done: then a new one must."""
        offset = self._spool.offset_after(after_seq)
        with self._rewind_lock:
            if self._over:
                return False
            self._rewind_to = min(offset, self._rewind_to if self._rewind_to is not None else offset)
        self._spool.wrote.set()
        return True

    @property
    def run_dir(self) -> Path:
        return self._spool.run_dir

    def _ended(self) -> bool:
        """Whether nothing is left to do; from then on it can't be rewound."""
        with self._rewind_lock:
            if self._rewind_to is not None:
                self._offset = min(self._offset, self._rewind_to)
                self._rewind_to = None
            self._over = self._spool.finished and self.waiting_bytes == 0
            return self._over

    def _run(self) -> None:
        try:
            while not self._ended():
                if self.waiting_bytes == 0:
                    self._spool.wrote.wait(1.0)
                    time.sleep(LINGER_S)
                self._spool.wrote.clear()
                self._ship_all()
            self._spool.close()
        except Exception:
            with self._rewind_lock:
                self._over = True
            # A spool that can't be read; the events stay on disk and recovery tries again at the next start.
            log.exception("Run %s: its %s cannot be shipped.", self._name, SPOOL_FILE)
        finally:
            with Shipper._count_lock:
                Shipper.live.discard(self)
            self._done.set()

    def _ship_all(self) -> None:
        retry_s = FIRST_RETRY_S
        while self.waiting_bytes and self._rewind_to is None:
            envelopes, end = self._spool.read(self._offset)
            if not envelopes:
                return
            try:
                self._sink.ship(envelopes)
            except Exception as error:
                if retry_s == FIRST_RETRY_S:
                    log.warning("Run %s: events wait on disk, the sink is away (%s).", self._name, error)
                time.sleep(retry_s)
                retry_s = min(retry_s * 2, LONGEST_RETRY_S)
                continue
            retry_s = FIRST_RETRY_S
            self._offset = end
            with Shipper._count_lock:
                Shipper.shipped_events += len(envelopes)
            with contextlib.suppress(OSError):  # a full disk: at worst a batch is delivered twice
                self._spool.mark_shipped(end)


def send_again(run_dir: Path, after_seq: int, sink: EventSink, running: bool = False) -> Shipper | None:
    """Ship a run's events after `after_seq` once more. None where that can't be; the log says why.

    `running`: others write to its spool, so it is not to be opened a second time.
    """
    for shipper in list(Shipper.live):
        if shipper.run_dir == run_dir and shipper.rewind(after_seq):
            return shipper
    if running or not run_dir.is_dir():
        why = "they are no longer shipped" if running else "its folder is gone"
        log.warning("Run %s: its events are asked for, and %s.", run_dir.name, why)
        return None
    try:
        spool = Spool.of_run_dir(run_dir)
    except (OSError, ValueError) as error:
        log.warning("Run %s: its events are asked for, and can't be read (%s).", run_dir.name, error)
        return None
    fresh = Shipper(spool, sink)
    fresh.rewind(after_seq)
    return fresh.start()


def drain(timeout_s: float) -> bool:
    """Wait for all shippers of this process. Whether all delivered everything in time."""
    until = time.monotonic() + timeout_s
    delivered = [shipper.wait(max(until - time.monotonic(), 0)) for shipper in list(Shipper.live)]
    return all(delivered)
