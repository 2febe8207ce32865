"""Tells how a launch started and how it goes, as events: figures every few seconds while something happens, histograms
now and then.

Knows nothing of how the figures come about.
"""

import asyncio
import time

from workers.contract.startup import RESULT, StartUp
from workers.runtimes.base import Run
from workers.runtimes.serve.engine import Engine
from workers.runtimes.serve.tally import WINDOW_S, Tally

EVERY_S = 2.0
HISTOGRAMS_EVERY_S = 60.0
LATENCY = "latency"
"""Name of the Result with the histograms."""


class Reporting:
    """Of one launch."""

    def __init__(self, run: Run, engine: Engine, tally: Tally) -> None:
        self._run, self._engine, self._tally = run, engine, tally
        self._told = self._told_histograms = 0
        self._start: StartUp | None = None
        self._quiet_since = time.monotonic()
        self._next_histograms = time.monotonic() + HISTOGRAMS_EVERY_S

    def started(self, start: StartUp) -> None:
        """The launch answers from now on."""
        self._start = start
        self._run.result(RESULT, start.model_dump(mode="json"))

    async def go_on(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self._tell()

    def last(self) -> None:
        """What hasn't been told yet."""
        self._tell()
        self._tell_histograms()

    def _tell(self) -> None:
        now = time.monotonic()
        ended, working = self._tally.ended, not self._engine.idle
        if self._start and self._start.first_token_s is None and self._tally.first_token_s is not None:
            self.started(self._start.model_copy(update={"first_token_s": round(self._tally.first_token_s, 3)}))
        if ended != self._told or working:
            self._quiet_since = now
        if now - self._quiet_since > WINDOW_S + EVERY_S:
            return
        self._told = ended
        self._run.metric(self._tally.figures() | self._engine.figures())
        if now >= self._next_histograms:
            self._next_histograms = now + HISTOGRAMS_EVERY_S
            self._tell_histograms()

    def _tell_histograms(self) -> None:
        if self._tally.ended != self._told_histograms:
            self._told_histograms = self._tally.ended
            self._run.result(LATENCY, self._tally.histograms())
