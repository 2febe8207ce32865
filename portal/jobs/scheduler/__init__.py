"""Which waiting job starts where, and why the others wait: a pure function from queue, fleet and policy to decisions.

`decide` is the whole of it. Priority, ageing and fair share give the order (order, share); a job starts alone, on
several nodes at once or beside others (place, pools); devices are kept for the one that is next (backfill), or freed
for one of higher priority (preempt); the others are told why they wait and until when (why, expect). Knows nothing of
databases, clocks or how a decision is carried out.
"""

from portal.jobs.scheduler.decide import Blocked, Deciding, decide
from portal.jobs.scheduler.decisions import Decision, Placement, Preempt, Wait
from portal.jobs.scheduler.fleet import GIB, FleetNode, FreeDevice, Held
from portal.jobs.scheduler.policy import Policy
from portal.jobs.scheduler.queue import Waiting

__all__ = [
    "GIB", "Blocked", "Deciding", "Decision", "FleetNode", "FreeDevice", "Held", "Placement", "Policy", "Preempt",
    "Wait", "Waiting", "decide",
]  # fmt: skip
