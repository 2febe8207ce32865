"""An attempt in a worker's hands: its place, what it may be told while it runs, what the heart says of it.

Doesn't know how the attempt is run, nor who tells it anything.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from workers.artifacts import ArtifactStore
from workers.contract.events import RunningAttempt
from workers.contract.reasons import Reason
from workers.contract.stopping import STOP_GRACE_S
from workers.guard import GRACE_S
from workers.leases import Lease, Standing
from workers.sinks import EventSink
from workers.spool import Spool

Identity = tuple[int, int, str]
"""(job, attempt, token)."""


MAKES_WAY_S = 30.0
"""Longer than it takes to end a child whose lease is lost."""


class End(NamedTuple):
    """Why an attempt ends."""

    reason: Reason
    detail: str = ""


class Interruption(NamedTuple):
    """An end from outside. The child has `grace_s` seconds to end by itself; `soft`: it may save its work first."""

    end: End
    grace_s: float
    soft: bool = False


class Place(NamedTuple):
    """Where attempts are run, and where what comes of them goes."""

    runs_dir: Path
    store: ArtifactStore
    sink: EventSink
    spool_limit_bytes: int = 2 * 1024**3
    """A run whose events and log take more is ended; the log alone is cut off at half of it."""


@dataclass(eq=False)
class Held:
    """Threads may share it."""

    job: int
    attempt: int
    token: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    """Ends all attempts of this worker."""
    stop_grace_s: float = STOP_GRACE_S
    """Seconds a child has to save its work when it is preempted or its worker stops."""
    cancel: threading.Event = field(default_factory=threading.Event)
    cancel_grace_s: float = GRACE_S
    """Seconds a child has to end once it is cancelled; a launch also has those that its answers may still take."""
    preempt: threading.Event = field(default_factory=threading.Event)
    revoked: threading.Event = field(default_factory=threading.Event)
    """The lease is another's: nothing more may be stored. What was said until then is told all the same; the portal
    keeps it and lets it change nothing."""
    lease: Lease | None = None
    """None before the order is read; what then is refused needs none."""
    spool: Spool | None = None
    devices: frozenset[tuple[str, int]] = frozenset()
    beside: Callable[[], Iterable["Held"]] = tuple
    """The other attempts on these devices."""
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def identity(self) -> Identity:
        return self.job, self.attempt, self.token

    @property
    def running(self) -> RunningAttempt:
        last_seq = self.spool.last_seq if self.spool else 0
        return RunningAttempt(job=self.job, attempt=self.attempt, token=self.token, last_seq=last_seq)

    def told(self, hard_only: bool = False) -> Interruption | None:
        """The gravest word so far; `hard_only`: of those that leave no time to save anything."""
        if self.revoked.is_set():
            return Interruption(End(Reason.NODE_LOST, "The attempt's lease went to another while it ran."), 0)
        if self.cancel.is_set():
            return Interruption(End(Reason.CANCELLED), self.cancel_grace_s)
        if hard_only:
            return None
        if self.preempt.is_set():
            return Interruption(End(Reason.PREEMPTED), self.stop_grace_s, soft=True)
        if self.stop.is_set():
            return Interruption(
                End(Reason.WORKER_STOPPED, "The worker was told to stop."), self.stop_grace_s, soft=True
            )
        return None

    def make_way(self) -> None:
        """Before the child begins: ask for the lease, and let those end that have lost theirs to one of its devices.

        They may not know it yet, as after a pause of the worker; those that hold theirs share the device.
        """
        if self.lease:
            self.lease.check()
        for other in self.beside():
            if other.lease and other.lease.check() is Standing.LOST:
                other.over.wait(MAKES_WAY_S)

    def may_store(self) -> bool:
        """Whether something may be put into the artifact store; waits while that can't be known."""
        if self.lease is None:
            return not self.revoked.is_set()
        return self.lease.may_store(give_up=lambda: self.told() is not None)
