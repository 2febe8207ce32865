"""A load test from its warm-up to its report: the ramp goes on until a step misses the target, or there is no next one.

Knows nothing of the launch but its address, its token and its name.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from workers.contract.events import Result
from workers.contract.load_report import RESULT, STOPS, LoadReport, LoadStep, Stop, miss
from workers.contract.load_test import FIGURES, LoadTestSpec
from workers.contract.order import LaunchTarget
from workers.contract.reasons import Reason
from workers.runtimes.base import Run, RunFailed, invalid
from workers.runtimes.load_test.asking import Asker, Error
from workers.runtimes.load_test.prompts import Messages, conversations, size
from workers.runtimes.load_test.ramp import Ramp, first_of

TOO_LONG = "context_length_exceeded"
SHOWN = 60
"""Characters of a prompt in a refusal."""


def load_test(run: Run) -> None:
    """Carry it out. A launch that goes away ends it with what was measured. Raises RunFailed where nothing was, or
    where a prompt doesn't fit."""
    spec, target, token = run.order.spec, run.order.target, run.order.serve_token
    if not isinstance(spec, LoadTestSpec):
        raise invalid(f"spec.kind: {spec.kind!r} is no load test.")
    if target is None or not token:
        raise invalid("target: the order names no launch with its token, and a load test asks one.")
    asked, words = conversations(spec, run.order.dataset)
    run.say(f"Asks launch #{target.job} at {target.url}, straight at its engine: {words}.")
    asyncio.run(_Test(run, spec, target, words).carry_out(token, asked))


class _Test:
    def __init__(self, run: Run, spec: LoadTestSpec, target: LaunchTarget, words: str) -> None:
        self._run, self._spec, self._target, self._words = run, spec, target, words
        self._at, self._began = time.time(), time.monotonic()
        self._asked: list[Messages] = []
        self._steps: list[LoadStep] = []
        self._cancelled = False

    async def carry_out(self, token: str, asked: Sequence[Messages]) -> None:
        """Warm up, then step by step."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            with suppress(RuntimeError):  # the loop is closed: it is over anyway
                loop.call_soon_threadsafe(self._stop, over)

        self._run.on_stop.append(stop)
        asker = Asker(self._target, token, self._spec.max_tokens, self._spec.timeout_s)
        try:
            self._run.phase("warming up")
            self._asked = list(asked)
            await first_of(asyncio.create_task(self._warm_up(asker)), over)
            self._tell(*await self._climb(Ramp(self._spec, asker, self._asked, over)))
        finally:
            await asker.close()

    def _stop(self, over: asyncio.Event) -> None:
        self._cancelled = True
        over.set()

    async def _climb(self, ramp: Ramp) -> tuple[Stop, str]:
        """Why the ramp ended."""
        levels = self._spec.ramp
        for done, concurrency in enumerate(levels):
            if self._cancelled:
                return "cancelled", f"It was stopped before {concurrency} at a time."
            self._run.phase(f"{concurrency} at a time")
            step = await ramp.step(concurrency, partial(self._progress, done))
            if step.answers or step.errors:
                self._steps.append(step)
                self._say(step)
            if self._cancelled:
                return "cancelled", f"It was stopped at {concurrency} at a time."
            if ramp.gone:
                return "launch_gone", self._gone(ramp.gone, concurrency)
            if missed := miss(step, self._spec.target):
                return missed
            if concurrency != levels[-1]:
                self._tell(None, "")
        return "reached", f"{levels[-1]} at a time met the target; no more was asked for."

    def _gone(self, why: str, concurrency: int) -> str:
        """The launch answers no more. Raises RunFailed where nothing was measured before."""
        sentence = f"launch: #{self._target.job} went away at {concurrency} at a time ({why.rstrip('.')})."
        if not any(step.whole for step in self._steps):
            raise RunFailed(Reason.LAUNCH_GONE, sentence)
        return sentence.removeprefix("launch: ")

    async def _warm_up(self, asker: Asker) -> None:
        """Have one answer to the longest prompt that fits, which no step counts. Those of the built-in set that are too
        long for the launch are left out; of others that is a reason to fail."""
        left = sorted(self._asked, key=size, reverse=True)
        while isinstance(found := await asker.ask(left[0]), Error):
            own = bool(self._spec.dataset or self._spec.lines)
            if found.kind == "invalid" and found.code == TOO_LONG and not own and len(left) > 1:
                left.pop(0)
                continue
            if found.kind == "invalid":
                prompt = str(left[0][-1].get("content") or "")
                shown = prompt if len(prompt) <= SHOWN else prompt[:SHOWN] + "…"
                raise invalid(f"{found.message} The prompt begins {shown!r}.")
            why = found.message if found.kind in ("stopping", "unauthorized") else await asker.gone()
            if why:
                detail = f"launch: #{self._target.job} does not answer ({why.rstrip('.')})."
                raise RunFailed(Reason.LAUNCH_GONE, detail)
            self._run.say(f"The warm-up had no answer: {found.message}")
            break
        if len(left) < len(self._asked):
            self._run.say(f"{len(self._asked) - len(left)} of the prompts are too long for this launch and left out.")
            self._words = f"{len(left)} of {self._words}"
            longest = size(left[0])
            self._asked = [messages for messages in self._asked if size(messages) <= longest]

    def _progress(self, done: int, share: float) -> None:
        self._run.progress(round(done + share, 2), len(self._spec.ramp), "steps")

    def _say(self, step: LoadStep) -> None:
        times = step.times(self._spec.target.figure)
        p99 = f", P99 of the {FIGURES[self._spec.target.figure]} {times.p99_s * 1000:.4g} ms" if times else ""
        errors = step.errors_in_words
        self._run.say(
            f"{step.concurrency} at a time: {step.answers} answers in {step.seconds:.4g} s, "
            f"{step.requests_per_s:.4g} requests/s, {step.tokens_out_per_s:.4g} tokens/s out{p99}"
            + (f"; errors: {errors}." if errors else ".")
        )

    def _tell(self, stopped: Stop | None, why: str) -> None:
        report = LoadReport(
            at=self._at,
            took_s=round(time.monotonic() - self._began, 3),
            asked=self._words,
            target=self._spec.target,
            stopped=stopped,
            why=why,
            steps=tuple(self._steps),
        )
        self._run.emitter.emit(Result(name=RESULT, values=report.model_dump(mode="json")))  # told in words below
        if stopped is not None:
            self._run.say(f"Ended: {STOPS[stopped]}. {why} Highest rate that meets the target: {report.best_in_words}.")
