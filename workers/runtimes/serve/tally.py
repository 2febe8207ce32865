"""Counts what is served: requests, tokens, times and errors, as figures for now and as histograms.

Knows nothing of HTTP, nor of who reads the figures. Times are seconds: ttft from the request to its first text, waiting
included; tpot of a token of one answer after the first; latency from the request to the answer's end.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from workers.runtimes.serve.engine import Piece, Stream

BOUNDS = {
    "ttft_s": (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    "tpot_s": (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5),
    "latency_s": (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300),
}
"""Upper bounds of the histograms' buckets."""
LATEST = 512
"""Answers that a percentile is of."""
WINDOW_S = 10.0
"""Rates are of so many seconds."""


class Tally:
    """Fed from the event loop alone."""

    def __init__(self, answered: Callable[[int, float | None], None] = lambda tokens, token_s: None) -> None:
        """`answered` is called at each answer's end: tokens of prompt and answer, seconds of a token where there were
        two."""
        self.ended = 0
        """Answers that are over, however they ended: what a reader compares to see that there is something new."""
        self.first_token_s: float | None = None
        """Of the first request, from asking to its first text; None before it."""
        self._answered = answered
        self._totals: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._buckets = {name: [0] * (len(bounds) + 1) for name, bounds in BOUNDS.items()}
        self._latest: dict[str, deque[float]] = {name: deque(maxlen=LATEST) for name in BOUNDS}
        self._rates: deque[tuple[float, str, int]] = deque()

    async def watch(self, stream: Stream) -> AsyncIterator[Piece]:
        """The stream's pieces, counted."""
        first, tokens = None, 0
        self._count("tokens_in", len(stream.ask.prompt))
        try:
            async with aclosing(stream.pieces()) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    now = time.monotonic()
                    if first is None:
                        first = now
                        self._time("ttft_s", first - stream.asked_at)
                        if self.first_token_s is None:
                            self.first_token_s = first - stream.asked_at
                    self._count("tokens_out", piece.tokens - tokens)
                    tokens = piece.tokens
                    if piece.finish_reason:
                        self._time("latency_s", now - stream.asked_at)
                        token_s = (now - first) / (tokens - 1) if tokens > 1 and now > first else None
                        if token_s is not None:
                            self._time("tpot_s", token_s)
                        self._answered(len(stream.ask.prompt) + tokens, token_s)
                    yield piece
        except (GeneratorExit, asyncio.CancelledError):
            self.failed("left")
            raise
        except Exception:
            self.failed("broken")
            raise
        finally:
            self.ended += 1
            self._count("requests", 1)

    def failed(self, kind: str) -> None:
        """`kind`: invalid, full, stopping, failed, broken, left (the caller went away)."""
        self._errors[kind] += 1

    def figures(self) -> dict[str, float]:
        """How it goes: totals since the start, rates of the last seconds, percentiles of the latest answers."""
        now = time.monotonic()
        while self._rates and self._rates[0][0] < now - WINDOW_S:
            self._rates.popleft()
        recent: Counter[str] = Counter()
        for _, name, count in self._rates:
            recent[name] += count
        values: dict[str, float] = {
            f"{name}_total": self._totals[name] for name in ("requests", "tokens_in", "tokens_out")
        }
        values |= {f"{name}_per_s": recent[name] / WINDOW_S for name in ("requests", "tokens_in", "tokens_out")}
        values |= {f"errors_{kind}_total": count for kind, count in self._errors.items()}
        for name, times in self._latest.items():
            if times:
                ordered = sorted(times)
                values |= {
                    name: times[-1],
                    **{f"{name[:-2]}_p{share}_s": percentile(ordered, share) for share in (50, 95, 99)},
                }
        if times := self._latest["tpot_s"]:
            values["tokens_per_s"] = 1 / times[-1]
        return values

    def histograms(self) -> dict[str, Any]:
        """Name → upper bound of a bucket in seconds → answers in it; 'more' is the last."""
        return {
            name: dict(zip([*(f"{bound:g}" for bound in BOUNDS[name]), "more"], counts, strict=True))
            for name, counts in self._buckets.items()
        }

    def _count(self, name: str, count: int) -> None:
        self._totals[name] += count
        self._rates.append((time.monotonic(), name, count))

    def _time(self, name: str, seconds: float) -> None:
        self._latest[name].append(seconds)
        self._buckets[name][sum(seconds > bound for bound in BOUNDS[name])] += 1


def percentile(ordered: list[float], share: int) -> float:
    """The value that `share` percent don't exceed (nearest rank)."""
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]
