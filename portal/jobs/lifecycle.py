"""The states of a job and the moves between them: one pure table.

A job goes back to the queue only where its attempt ended and its policy has it tried again (portal.jobs.retries), or
where a job of higher priority took its devices. What a user stops never does. Knows nothing of databases or clocks.
"""

from enum import StrEnum

from workers.contract.reasons import Outcome


class Status(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
HOLDS_DEVICES = frozenset({Status.DISPATCHED, Status.RUNNING, Status.CANCELLING})
LIVE = frozenset({Status.QUEUED}) | HOLDS_DEVICES

MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.DISPATCHED, Status.CANCELLED, Status.FAILED}),
    Status.DISPATCHED: frozenset({Status.RUNNING, Status.CANCELLING, Status.QUEUED, *FINAL}),
    Status.RUNNING: frozenset({Status.CANCELLING, Status.QUEUED, *FINAL}),
    Status.CANCELLING: FINAL,
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}


def may_move(old: Status, new: Status) -> bool:
    """Whether the table has the move."""
    return new in MOVES[old]


def sources(new: Status) -> tuple[Status, ...]:
    """Every status from which `new` can be reached in one move."""
    return tuple(old for old in Status if new in MOVES[old])


def final_status(outcome: Outcome) -> Status:
    """The status that an attempt's outcome gives its job."""
    return Status(outcome.value)
