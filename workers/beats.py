"""The node's heartbeat: what runs here, every two seconds; who holds its devices, every ten; what the node is, at start
and every minute.

Doesn't know who listens.
"""

import logging
import threading
import time
from collections.abc import Callable

from workers.contract.events import DeviceUse, Heartbeat, NodeProfile, RunningAttempt
from workers.sinks import EventSink

log = logging.getLogger(__name__)

BEAT_INTERVAL_S = 2.0
PROFILE_INTERVAL_S = 60.0
LOOK_INTERVAL_S = 10.0


class Heart:
    """A thread that beats until `stop`. A sink that is away misses beats; the next one carries the profile again."""

    def __init__(
        self,
        node: str,
        sink: EventSink,
        running: Callable[[], tuple[RunningAttempt, ...]],
        profile: Callable[[], NodeProfile],
        occupants: Callable[[], tuple[DeviceUse, ...]] | None = None,
    ) -> None:
        """`occupants`: who holds the devices; without it nobody looks."""
        self._node = node
        self._sink = sink
        self._running = running
        self._profile = profile
        self._occupants = occupants
        self._profile_at = float("-inf")
        self._looked_at = float("-inf")
        self._away = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heart", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """A last beat, then none."""
        self._stopped.set()
        self._thread.join(timeout=5)

    def beat(self) -> None:
        """One beat; whether it arrived shows in the log only."""
        now = time.monotonic()
        with_profile = now >= self._profile_at + PROFILE_INTERVAL_S
        try:
            profile = self._profile() if with_profile else None
            devices = self._look(now)
            beat = Heartbeat(node=self._node, at=time.time(), running=self._running(), devices=devices, profile=profile)
            self._sink.beat(beat)
        except ConnectionError as error:
            if not self._away:
                log.warning("Heartbeats don't arrive: %s", error)
            self._away, self._profile_at = True, float("-inf")
            return
        if self._away:
            log.info("Heartbeats arrive again.")
        self._away = False
        if with_profile:
            self._profile_at = now

    def _look(self, now: float) -> tuple[DeviceUse, ...] | None:
        """None when it isn't time, or can't be told: a heartbeat goes out whatever a driver answers."""
        if self._occupants is None or now < self._looked_at + LOOK_INTERVAL_S:
            return None
        self._looked_at = now
        try:
            return self._occupants()
        except Exception:
            log.exception("Who holds the devices can't be told.")
            return None

    def _beat_on(self) -> None:
        while not self._stopped.is_set():
            try:
                self.beat()
            except Exception:
                log.exception("A heartbeat failed.")
            self._stopped.wait(BEAT_INTERVAL_S)
        self.beat()
