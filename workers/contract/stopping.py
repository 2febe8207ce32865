"""How long a worker that is told to stop may take: whoever stops one waits for that long.

Knows nothing of processes.
"""

STOP_GRACE_S = 20.0
"""Seconds a run has to save its work, unless LIFTOFF_STOP_GRACE_S says otherwise."""
REST_S = 14.0
"""Beside the runs' grace: to kill what is left, to tell the end, to deliver events."""


def longest_stop_s(grace_s: float) -> float:
    """Twice the grace: a child may save its work for that long, and what it saved may be on its way for as long."""
    return 2 * grace_s + REST_S
