"""Leases: whether an attempt that runs here is still the one the portal counts on.

The controller keeps a book of who holds what (`names.LEASES`); a `Lease` reads its line in it, the `LeaseWatch` makes
all of them read in time. A process that was stopped, a machine that slept and a broker that was away all show as time
gone by since the last reading. Doesn't know what an attempt does, nor what is done about a lease that is lost.
"""

import logging
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.contract.names import EPOCH_FIELD, LEASES, fence_of
from workers.sinks import SinkDown

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 5.0
TICK_S = 0.5
AGAIN_S = 1.0
"""A line that is missing from a whole book is looked for once more after this: it may be on its way."""


class Page(NamedTuple):
    """What the book says of a job. `whole`: the controller vouches for it. `holder`: '<attempt>:<token>'."""

    whole: bool
    holder: str | None


class LeaseBook(Protocol):
    """Who holds which job's lease."""

    def read(self, job: int) -> Page:
        """Raises SinkDown when the book can't be read now."""
        ...


class RedisLeaseBook:
    """The controller's hash. Threads may share it."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(
            redis_url,
            socket_timeout=READ_TIMEOUT_S,
            socket_connect_timeout=READ_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    def read(self, job: int) -> Page:
        try:
            epoch, holder = self._redis.hmget(LEASES, [EPOCH_FIELD, str(job)])
        except (redis.RedisError, OSError) as error:
            raise SinkDown(str(error)) from error
        return Page(epoch is not None, holder.decode() if isinstance(holder, bytes) else holder)

    def close(self) -> None:
        self._redis.close()


class MemoryLeaseBook:
    """The twin: `holders` by job. While `down` is set it can't be read; unless `whole`, it vouches for nothing."""

    def __init__(self) -> None:
        self.holders: dict[int, str] = {}
        self.whole = False
        self.down = threading.Event()

    def read(self, job: int) -> Page:
        if self.down.is_set():
            raise SinkDown("The book is away.")
        return Page(self.whole, self.holders.get(job))


class Standing(Enum):
    """What a reading came to."""

    HELD = "held"
    LOST = "lost"
    UNKNOWN = "unknown"
    """The book isn't whole, as after Redis lost its data: nobody can tell, so the run goes on."""
    AWAY = "away"


class Clock(NamedTuple):
    """Two clocks, in seconds: one stands still while a machine sleeps, the other may jump. The later one counts."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    def now(self) -> tuple[float, float]:
        return self.monotonic(), self.wall()


class Lease:
    """One attempt's line in the book. Threads may share it. An order without a token has no lease to lose."""

    def __init__(
        self,
        book: LeaseBook,
        job: int,
        attempt: int,
        token: str,
        lease_s: float,
        lost: threading.Event,
        clock: Clock | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """`lost` is set when the lease is found to be another's."""
        self.lost = lost
        self._book = book
        self._job = job
        self._mine = f"{attempt}:{fence_of(token)}"
        self._bound = bool(token)
        self._lease_s = lease_s
        self._clock = clock or Clock()
        self._pause = pause
        self._age_s = 0.0
        self._looked_at = self._clock.now()
        self._lock, self._age_lock = threading.Lock(), threading.Lock()

    @property
    def age_s(self) -> float:
        """Since the last reading, look by look, by whichever clock says more: one that goes back takes nothing off."""
        with self._age_lock:
            monotonic, wall = self._clock.now()
            self._age_s += max(monotonic - self._looked_at[0], wall - self._looked_at[1], 0)
            self._looked_at = monotonic, wall
            return self._age_s

    @property
    def due(self) -> bool:
        """Whether it is time to read again."""
        return self._bound and not self.lost.is_set() and self.age_s >= self._lease_s / 3

    @property
    def doubtful(self) -> bool:
        """Whether so much time has gone by unread that the lease may have lapsed meanwhile."""
        return self._bound and self.age_s >= self._lease_s / 2

    def check(self) -> Standing:
        """Read the book now."""
        with self._lock:
            if self.lost.is_set():
                return Standing.LOST
            if not self._bound:
                return Standing.HELD
            before = self.age_s
            try:
                page = self._book.read(self._job)
                if page.whole and page.holder is None:
                    self._pause(AGAIN_S)
                    page = self._book.read(self._job)
            except ConnectionError:
                return Standing.AWAY
            if page.whole and page.holder != self._mine:
                log.warning("The lease of job %d attempt %s is %s.", self._job, self._mine.split(":")[0], _whose(page))
                self.lost.set()
                return Standing.LOST
            with self._age_lock:
                self._age_s -= before
            return Standing.HELD if page.whole else Standing.UNKNOWN

    def may_store(self, give_up: Callable[[], bool]) -> bool:
        """Whether something may be put in the store now: always read first.

        While the book can't be read and the lease may have lapsed, wait; `give_up` ends that with a no.
        """
        while (standing := self.check()) is Standing.AWAY and self.doubtful:
            if give_up():
                return False
            self._pause(AGAIN_S)
        return standing is not Standing.LOST


class LeaseWatch:
    """A thread that makes leases read in time, until `stop`."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="leases", daemon=True)

    def start(self) -> "LeaseWatch":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=READ_TIMEOUT_S)

    def add(self, lease: Lease) -> None:
        with self._lock:
            self._leases.add(lease)

    def discard(self, lease: Lease) -> None:
        with self._lock:
            self._leases.discard(lease)

    def tick(self) -> None:
        """Read what is due."""
        with self._lock:
            due = [lease for lease in self._leases if lease.due]
        for lease in due:
            lease.check()

    def _watch(self) -> None:
        while not self._stopped.wait(TICK_S):
            try:
                self.tick()
            except Exception:
                log.exception("Reading the leases failed.")


def _whose(page: Page) -> str:
    return f"attempt {page.holder.split(':')[0]}'s" if page.holder else "nobody's"
