"""Which of several controllers leads: a row in the database that the leader renews and another takes when it lapses.

No two clocks are compared. A leader counts itself as such for less time after a renewal, by its own monotonic clock,
than another watches the row stand still before taking it; whose process has ended on this very machine is followed at
once. Does not know what a leader does.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from django.db import Error, IntegrityError, close_old_connections
from django.utils import timezone

from portal.jobs.models import Leadership

log = logging.getLogger(__name__)

ROLE = "controller"
RENEW_S = 1.0
LOOK_S = 0.5
LAPSE_S = 5.0
"""A row that has stood still for this long is free; the leader takes itself for one a second less."""
LONG_GONE_S = 120.0
"""A row that lapsed this long ago by its own word is free at once: more than clocks of one cluster differ."""
SAFETY_S = 1.0

Row = tuple[str, datetime, int]
"""(holder, until, term): what a renewal changes."""


class Candidate:
    """One process's part in it. `step` is one move; `run` makes them until stopped."""

    def __init__(
        self,
        role: str = ROLE,
        holder: str = "",
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        """`clock`: monotonic seconds; `now`: the time written in the row."""
        self.holder = holder or f"{_here()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._role = role
        self._clock = clock
        self._now = now
        self._leads_until = float("-inf")
        self._seen: Row | None = None
        self._seen_at = float("-inf")
        self.term = 0
        """Of the leadership held now; 0 before the first."""

    @property
    def leads(self) -> bool:
        """Whether this process leads at this moment. False as soon as a renewal is late."""
        return self._clock() < self._leads_until

    def step(self) -> bool:
        """Renew what is held, or take what is free. Whether this process leads. Raises django.db.Error."""
        began = self._clock()
        if self.term and self._renew():
            self._leads_until = began + LAPSE_S - SAFETY_S
            return True
        if self.term:
            log.warning("another controller leads now")
            self._leads_until, self.term = float("-inf"), 0
        row = self._look(began)
        if not self._free(row, began) or not self._take(row):
            return False
        self.term = row[2] + 1
        self._leads_until = began + LAPSE_S - SAFETY_S
        log.info("this controller leads (term %d)", self.term)
        return True

    def resign(self) -> None:
        """Let another lead at once. Raises django.db.Error."""
        self._leads_until = float("-inf")
        if self.term:
            Leadership.objects.filter(name=self._role, holder=self.holder, term=self.term).update(holder="")
            self.term = 0

    def run(self, stop: threading.Event) -> None:
        """Step until `stop`, then resign. An outage of the database ends a leadership by itself."""
        failing = False
        while not stop.is_set():
            try:
                close_old_connections()
                self.step()
                failing = False
            except Error as error:
                if not failing:
                    log.warning("leadership can't be renewed: %s", error)
                failing = True
            stop.wait(RENEW_S if self.leads and not failing else LOOK_S)
        try:
            self.resign()
        except Error as error:
            log.warning("leadership could not be given up: %s", error)

    def _renew(self) -> bool:
        mine = Leadership.objects.filter(name=self._role, holder=self.holder, term=self.term)
        return bool(mine.update(until=self._now() + timedelta(seconds=LAPSE_S)))

    def _look(self, began: float) -> Row:
        """The row as it is, and since when it has been so."""
        found = Leadership.objects.filter(name=self._role).values_list("holder", "until", "term").first()
        row: Row = found or ("", self._now(), 0)
        if row != self._seen:
            self._seen, self._seen_at = row, began
        return row

    def _free(self, row: Row, began: float) -> bool:
        holder, until, _ = row
        stood_still = began - self._seen_at >= LAPSE_S
        return not holder or stood_still or _has_ended(holder) or until < self._now() - timedelta(seconds=LONG_GONE_S)

    def _take(self, row: Row) -> bool:
        holder, until, term = row
        fresh = {"holder": self.holder, "until": self._now() + timedelta(seconds=LAPSE_S), "term": term + 1}
        if Leadership.objects.filter(name=self._role, holder=holder, until=until, term=term).update(**fresh):
            return True
        if term:
            return False
        try:
            Leadership.objects.create(name=self._role, **fresh)
        except IntegrityError:
            return False
        return True


def _here() -> str:
    """Names the processes among which a number means this one: the host, since it was booted, and its container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"{socket.gethostname()}/{secrets.token_hex(4)}"  # nobody else's


def _has_ended(holder: str) -> bool:
    """Whether the holder was a process of this machine that is no more. False when that can't be told."""
    here, _, process = holder.rpartition(":")[0].rpartition(":")
    if here != _here() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
