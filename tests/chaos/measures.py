"""How long a round's disturbed jobs took to run again, and how much of their work was done twice."""

from dataclasses import dataclass
from itertools import pairwise

from portal.jobs.models import Attempt
from tests.chaos.invariants import attempts_of, caused
from tests.chaos.rounds import Round
from tests.chaos.schedule import Kind
from tests.chaos.stack import Stack

_ENDING = frozenset({Kind.KILL_CHILD, Kind.KILL_WORKER, Kind.STOP_WORKER, Kind.PAUSE_WORKER, Kind.FILL_DISK})


@dataclass(frozen=True)
class Recovery:
    """One attempt that a fault ended, and the next of the same job that ran. Seconds and steps.

    `queued_s` of `recovery_s` it waited for its back-off and for a device that others held.
    """

    fault: Kind
    recovery_s: float
    noticed_s: float
    queued_s: float
    lost_steps: int
    every: int


def recoveries(stack: Stack, played: Round) -> list[Recovery]:
    """Of every attempt that a fault ended and that had a successor."""
    found = []
    for before, after in pairwise(attempts_of(played)):
        if before.job_id != after.job_id or after.started_at is None or before.finished_at is None:
            continue
        causes = caused(before, _ENDING, played.injected)
        if not causes:
            continue
        fault = causes[-1]
        every = int(before.order["spec"].get("checkpoint_every", 0))
        found.append(
            Recovery(
                fault.kind,
                after.started_at.timestamp() - fault.at,
                before.finished_at.timestamp() - fault.at,
                (after.dispatched_at - before.finished_at).total_seconds(),
                max(_last_step(stack, before, fault.at) - _resumed_at(after), 0),
                every,
            )
        )
    return found


def _resumed_at(attempt: Attempt) -> int:
    resume = attempt.order.get("resume")
    return int(resume["step"]) if resume else 0


def _last_step(stack: Stack, attempt: Attempt, before: float) -> int:
    """The last step that its child had done when the fault came; 0 when none."""
    for path in stack.witness.glob(f"*.{attempt.job_id}-{attempt.number}-*"):
        steps = [line.split() for line in path.read_text().splitlines()]
        return max((int(step) for step, at in steps if float(at) <= before), default=0)
    return 0


def percentile(values: list[float], share: float) -> float | None:
    """The value that `share` of them don't exceed; None of nothing."""
    ordered = sorted(values)
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3) if ordered else None
