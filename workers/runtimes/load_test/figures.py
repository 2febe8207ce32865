"""From answers and errors to the figures of a step. Knows nothing of how they were had."""

from collections import Counter
from collections.abc import Iterable, Sequence

from workers.contract.load_report import LoadStep, Times
from workers.runtimes.load_test.asking import Answer
from workers.runtimes.serve.tally import percentile


def step_of(
    concurrency: int, answers: Sequence[Answer], errors: Iterable[str], began: float, ended: float, whole: bool
) -> LoadStep:
    """`errors`: their kinds. `began`, `ended`: of the same clock as the answers; rates are over the time between the
    two. Percentiles by nearest rank, as on a launch's page."""
    seconds = max(ended - began, 1e-9)
    return LoadStep(
        concurrency=concurrency,
        whole=whole,
        seconds=round(seconds, 3),
        answers=len(answers),
        requests_per_s=len(answers) / seconds,
        tokens_in_per_s=sum(answer.tokens_in for answer in answers) / seconds,
        tokens_out_per_s=sum(answer.tokens_out for answer in answers) / seconds,
        ttft=_times(answer.first - answer.sent for answer in answers),
        tpot=_times(
            (answer.last - answer.first) / (answer.tokens_out - 1) for answer in answers if answer.tokens_out > 1
        ),
        e2e=_times(answer.last - answer.sent for answer in answers),
        errors=dict(Counter(errors)),
    )


def _times(seconds: Iterable[float]) -> Times | None:
    ordered = sorted(seconds)
    if not ordered:
        return None
    p50, p95, p99 = (percentile(ordered, share) for share in (50, 95, 99))
    return Times(p50_s=p50, p95_s=p95, p99_s=p99)
