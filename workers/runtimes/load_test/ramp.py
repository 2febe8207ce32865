"""A step of the ramp: so many askers, each of which sends its next request once the one before has ended (closed loop).

Knows nothing of targets, nor of who reads the figures.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

from workers.contract.load_report import LoadStep
from workers.contract.load_test import LoadTestSpec
from workers.runtimes.load_test.asking import Answer, Asker, Error
from workers.runtimes.load_test.figures import step_of
from workers.runtimes.load_test.prompts import Messages

AFTER_ERROR_S = 0.1
"""An asker rests so long after an error, or one that is refused at once would ask thousands of times a second."""
TELL_S = 1.0


class Ramp:
    """Asks the conversations in turn, on through all steps. `over`: set, it ends a step before its time."""

    def __init__(
        self, spec: LoadTestSpec, asker: Asker, conversations: Sequence[Messages], over: asyncio.Event
    ) -> None:
        self._spec, self._asker, self._over = spec, asker, over
        self._conversations: Iterator[Messages] = itertools.cycle(conversations)
        self.gone = ""
        """Why the engine answers no more; '' while it does."""

    async def step(self, concurrency: int, tell: Callable[[float], None]) -> LoadStep:
        """So many requests at a time, by time or by number. What is under way then ends. `tell`: the share done."""
        one = _Step(self._spec, concurrency)
        asking = asyncio.create_task(self._ask_all(one, concurrency))
        telling = asyncio.create_task(_go_on_telling(one, tell))
        try:
            await first_of(asking, self._over)
        finally:
            telling.cancel()
        whole = not self._over.is_set()
        ended = one.ended if whole else time.perf_counter()
        return step_of(concurrency, one.answers, (error.kind for error in one.errors), one.began, ended, whole)

    async def _ask_all(self, step: "_Step", askers: int) -> None:
        await asyncio.gather(*(self._ask_on(step) for _ in range(askers)))

    async def _ask_on(self, step: "_Step") -> None:
        while step.takes_one():
            found = await self._asker.ask(next(self._conversations))
            if isinstance(found, Answer):
                step.answers.append(found)
                step.ended = found.last
                continue
            step.errors.append(found)
            step.ended = time.perf_counter()
            await self._look_after(found)
            await asyncio.sleep(AFTER_ERROR_S)

    async def _look_after(self, error: Error) -> None:
        """Whether an error means that there is nobody to ask any more."""
        if error.kind in ("stopping", "unauthorized"):
            why = error.message
        elif error.kind in ("unreachable", "broken", "failed"):
            why = await self._asker.gone()
        else:
            return
        if why and not self._over.is_set():
            self.gone = why
            self._over.set()


class _Step:
    """One under way."""

    def __init__(self, spec: LoadTestSpec, concurrency: int) -> None:
        self._spec = spec
        self._left = max(spec.step_requests, concurrency) if spec.step_requests else None
        self._all = self._left
        self.began = self.ended = time.perf_counter()
        self.answers: list[Answer] = []
        self.errors: list[Error] = []

    def takes_one(self) -> bool:
        """Whether another request begins, which is counted then."""
        if self._left is None:
            return time.perf_counter() - self.began < self._spec.step_s
        self._left -= 1
        return self._left >= 0

    @property
    def share(self) -> float:
        """Done, 0 to 1."""
        if self._all:
            return min((len(self.answers) + len(self.errors)) / self._all, 1.0)
        return min((time.perf_counter() - self.began) / self._spec.step_s, 1.0)


async def _go_on_telling(step: _Step, tell: Callable[[float], None]) -> None:
    while True:
        tell(step.share)
        await asyncio.sleep(TELL_S)


async def first_of(task: "asyncio.Task[None]", over: asyncio.Event) -> None:
    """Wait for the task, or until it is over, which ends the task. What it raises is raised."""

    async def waits() -> None:
        await over.wait()

    waiting = asyncio.create_task(waits())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        for one in (task, waiting):
            one.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
