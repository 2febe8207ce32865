"""When the leading controller deletes what is beyond the limits: soon after it leads, then every hour.

In a thread of its own, since a sweep may take seconds. Does not know what is deleted, nor why (retention).
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime

from django.db import Error, close_old_connections
from django.utils import timezone

from portal.telemetry.retention import sweep_once

log = logging.getLogger(__name__)

FIRST_S = 60.0
EVERY_S = 3600.0
LOOK_S = 1.0


class Sweeper:
    """One a controller."""

    def __init__(
        self,
        first_s: float = FIRST_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        """`first_s`: from when it leads to its first sweep; `clock`: monotonic seconds; `now`: the wall clock."""
        self._first_s = first_s
        self._now = now
        self._clock = clock
        self._due: float | None = None

    def run(self, stop: threading.Event, leads: Callable[[], bool]) -> None:
        """Sweep until `stop` whenever it is time and this controller `leads`."""
        while not stop.wait(LOOK_S):
            try:
                self.step(leads=leads(), stop=stop)
            except Exception:  # whatever fails is tried again in an hour; the log has why
                log.exception("the sweep failed")

    def step(self, *, leads: bool, stop: threading.Event | None = None) -> bool:
        """Sweep if it is time; whether it was."""
        if not leads:
            self._due = None
            return False
        now = self._clock()
        if self._due is None:
            self._due = now + self._first_s
        if now < self._due:
            return False
        self._due = now + EVERY_S
        try:
            close_old_connections()
            while (sweep := sweep_once(self._now())).gone:
                log.info("deleted %s", sweep.totals())
                if not sweep.more or (stop is not None and stop.is_set()):
                    break
        except Error as error:
            log.warning("the sweep waits: %s", error)
        return True
