"""Machines in simulated time, for the clock test: a monotonic clock that stands still in sleep, and one that jumps.

A node's leases are the workers' own. Doesn't know what happens to a machine, nor what the portal makes of it.
"""

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

from portal.jobs.models import Attempt
from workers.contract.events import RunningAttempt
from workers.leases import Clock, Lease, LeaseWatch, MemoryLeaseBook

LEASE_S = 6.0


@dataclass
class Machine:
    """Two clocks, in seconds."""

    monotonic: float = 1_000.0
    wall: float = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    sleeps: bool = False

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += 0 if self.sleeps else seconds


@dataclass
class WorkerNode(Machine):
    """A node's worker: what it runs, and the lease it runs it by."""

    name: str = ""
    dead: bool = False
    beat_at: float = 0.0
    heard_at: float = 0.0
    """True time of the last beat that the controller read."""
    held: dict[str, tuple[RunningAttempt, Lease]] = field(default_factory=dict)
    """By token."""
    watch: LeaseWatch = field(default_factory=LeaseWatch)

    @property
    def silent(self) -> bool:
        return self.sleeps or self.dead

    def start(self, attempt: Attempt, book: MemoryLeaseBook) -> None:
        clock = Clock(lambda: self.monotonic, lambda: self.wall)
        key = (attempt.job_id, attempt.number, attempt.token)
        lease = Lease(book, *key, LEASE_S, threading.Event(), clock, pause=lambda _: None)
        self.held[attempt.token] = (RunningAttempt(job=key[0], attempt=key[1], token=key[2]), lease)
        self.watch.add(lease)

    def look(self) -> None:
        """What its threads do all the time: read the leases that are due, end what is lost."""
        self.watch.tick()
        for token, (_, lease) in list(self.held.items()):
            if lease.lost.is_set():
                del self.held[token]
                self.watch.discard(lease)
