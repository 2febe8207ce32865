"""What a load test found: a step for each number of requests at a time, and why the ramp ended.

Percentiles are by nearest rank: the smallest measured value that so many percent of the answers don't exceed. Does not
know how anything is measured.
"""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, FiniteFloat

from workers.contract.base import Contract
from workers.contract.load_test import FIGURES, LoadTarget

RESULT = "load_test"
"""Name of the Result event that carries a LoadReport; said again after each step, until `stopped` says why it ended."""

Stop = Literal["reached", "target_missed", "errors", "launch_gone", "cancelled"]
STOPS: dict[Stop, str] = {
    "reached": "the most at a time was reached",
    "target_missed": "the target was missed",
    "errors": "too many requests failed",
    "launch_gone": "the launch went away",
    "cancelled": "it was stopped",
}
"""In words."""


class Times(Contract):
    """Percentiles of the answers of one step, seconds."""

    p50_s: FiniteFloat = Field(ge=0)
    p95_s: FiniteFloat = Field(ge=0)
    p99_s: FiniteFloat = Field(ge=0)


def in_words(errors: Iterable[tuple[str, int]]) -> str:
    """Kinds with their numbers of requests: '3 timeout, 1 full'."""
    return ", ".join(f"{count} {kind}" for kind, count in errors)


class LoadStep(Contract):
    """So many requests at a time. Rates are of the whole answers, over the time from the first request to the last end.

    TTFT is from sending to the first text. TPOT is (last token's time - first token's time) / (tokens - 1), of answers
    with two or more. End to end is from sending to the last token.
    """

    concurrency: int = Field(ge=1, le=4096)
    whole: bool = Field(description="False for a step that was cut short; it is not judged.")
    seconds: FiniteFloat = Field(ge=0)
    answers: int = Field(ge=0, description="Whole ones.")
    requests_per_s: FiniteFloat = Field(ge=0)
    tokens_in_per_s: FiniteFloat = Field(ge=0)
    tokens_out_per_s: FiniteFloat = Field(ge=0)
    ttft: Times | None = Field(None, description="None where there was no answer.")
    tpot: Times | None = Field(None, description="None where no answer had two tokens.")
    e2e: Times | None = None
    errors: dict[str, int] = Field(default_factory=dict, description="Kind → requests.")

    @property
    def error_share(self) -> float:
        """Of its requests, 0 to 1."""
        failed = sum(self.errors.values())
        return failed / (failed + self.answers) if failed else 0.0

    @property
    def errors_in_words(self) -> str:
        """'3 timeout, 1 full'; '' where there were none."""
        return in_words(self.errors.items())

    def times(self, figure: str) -> Times | None:
        """Of one of the figures by its name."""
        return {"ttft": self.ttft, "tpot": self.tpot, "e2e": self.e2e}[figure]


class LoadReport(Contract):
    """One load test, up to its latest step."""

    at: FiniteFloat = Field(ge=0, le=1e11, description="Unix seconds when it began.")
    took_s: FiniteFloat = Field(ge=0)
    asked: str = Field(max_length=300, description="What was asked, in words.")
    target: LoadTarget
    stopped: Stop | None = Field(None, description="Why the ramp ended; None while it goes on.")
    why: str = Field("", max_length=1000, description="The same in a sentence.")
    steps: tuple[LoadStep, ...] = Field((), max_length=64)

    @property
    def best(self) -> LoadStep | None:
        """The step with the highest rate of requests among those that meet the target."""
        met = [step for step in self.steps if step.whole and not miss(step, self.target)]
        return max(met, key=lambda step: step.requests_per_s, default=None)

    @property
    def best_in_words(self) -> str:
        """'3.2 requests/s at 4 at a time', or 'none'."""
        best = self.best
        return f"{best.requests_per_s:.4g} requests/s at {best.concurrency} at a time" if best else "none"


def miss(step: LoadStep, target: LoadTarget) -> tuple[Stop, str] | None:
    """Why a step doesn't meet the target, and in a sentence; None where it does."""
    if step.error_share * 100 > target.most_errors_percent or not step.answers:
        kinds = in_words(sorted(step.errors.items(), key=lambda one: -one[1]))
        share = f"{step.error_share * 100:.3g}% of the requests failed ({kinds or 'none was answered'})"
        return "errors", f"At {step.concurrency} at a time {share}; at most {target.most_errors_percent:g}% may."
    words, times = FIGURES[target.figure], step.times(target.figure)
    if times is None:
        return "target_missed", f"At {step.concurrency} at a time no answer had a {words} to judge."
    if times.p99_s * 1000 < target.bound_ms:
        return None
    p99 = f"{times.p99_s * 1000:.4g} ms"
    return "target_missed", (
        f"At {step.concurrency} at a time the P99 of the {words} was {p99}; the target is below {target.bound_ms:g} ms."
    )
