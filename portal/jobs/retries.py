"""Whether a job whose attempt ended is tried again, and after how long: a pure function of its policy and the reason.

Knows nothing of databases, clocks or where the next attempt goes.
"""

from collections.abc import Sequence
from itertools import takewhile

from workers.contract.reasons import Reason
from workers.contract.resources import RetryPolicy

ALWAYS = frozenset(
    {
        *(Reason.NODE_LOST, Reason.PEER_LOST, Reason.WORKER_STOPPED, Reason.NEVER_STARTED),
        *(Reason.STORE_UNREACHABLE, Reason.DISK_FULL),
    }
)
"""No fault of the job's: any policy with an attempt left tries again."""
LONGEST_BACKOFF_S = 6 * 3600.0
STEADY_S = 600.0
"""A launch that ran for so long had started well: what ends it then has nothing to do with the start."""


def retry_in_s(policy: RetryPolicy, reason: Reason, tries: int) -> float | None:
    """Seconds until the job is tried again; None when it isn't.

    `tries`: its attempts so far that count, the one that just ended among them; a preempted one doesn't count. The
    back-off doubles with each of them, up to LONGEST_BACKOFF_S.
    """
    if reason is Reason.PREEMPTED:
        return 0.0
    if tries >= policy.max_attempts or not _asked(policy, reason):
        return None
    return min(policy.backoff_s * 2.0 ** (tries - 1), LONGEST_BACKOFF_S)


def in_a_row(ran_s: Sequence[float]) -> int:
    """How many tries of a launch count: those of late that ended soon after their start, and the last in any case.

    `ran_s`: seconds of its attempts, the newest first.
    """
    return max(1, len(list(takewhile(lambda seconds: seconds < STEADY_S, ran_s))))


def _asked(policy: RetryPolicy, reason: Reason) -> bool:
    return (
        reason in ALWAYS
        or (reason is Reason.KILLED and policy.after_kill)
        or (reason is Reason.CRASHED and policy.after_crash)
    )
