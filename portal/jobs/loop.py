"""The scheduling tick: reads queue and fleet, lets the scheduler decide, carries it out; and the sweeps beside it.

Knows nothing of events; does not decide anything itself.
"""

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone

from portal.fleet.selectors import is_online
from portal.jobs import dispatch, orders, selectors, services
from portal.jobs.lifecycle import HOLDS_DEVICES, Status
from portal.jobs.models import Attempt, Job
from portal.jobs.scheduler import Placement, decide
from workers.contract.reasons import Reason

log = logging.getLogger(__name__)
RESEND_AFTER_S = 10


def tick(now: datetime | None = None) -> int:
    """Schedule once. Returns how many attempts were dispatched."""
    now = now or timezone.now()
    queue = selectors.waiting(now)
    if not queue:
        return 0
    started = 0
    for decision in decide(queue, selectors.fleet(now)):
        if isinstance(decision, Placement):
            started += services.allocate(decision)
        else:
            seconds = decision.expected_in_s
            expected = now + timedelta(seconds=seconds) if seconds is not None else None
            services.wait(decision.job, decision.position, decision.reason, expected)
    return started


def sweep() -> None:
    """End attempts whose node is lost or never started them; repeat commands that may have been lost on the way."""
    now = timezone.now()
    live = Attempt.objects.filter(finished_at=None, job__status__in=HOLDS_DEVICES).select_related("job", "node")
    for attempt in live:
        job, node = attempt.job, attempt.node
        waited_s = (now - attempt.dispatched_at).total_seconds()
        if not is_online(node, now):
            if waited_s > settings.LIFTOFF_NODE_LOST_S:
                services.finish(
                    job.pk,
                    attempt.number,
                    Reason.NODE_LOST,
                    f"Node {node.name} was last seen at {node.last_seen_at:%H:%M:%S} UTC.",
                )
        elif job.status == Status.CANCELLING:
            dispatch.cancel(job.pk, attempt.number, node.name)
        elif job.status == Status.DISPATCHED and attempt.started_at is None:
            if waited_s > settings.LIFTOFF_START_TIMEOUT_S:
                services.finish(
                    job.pk, attempt.number, Reason.NEVER_STARTED, f"Node {node.name} had {waited_s:.0f} s to start it."
                )
            elif waited_s > RESEND_AFTER_S:
                dispatch.start(orders.rebuild(attempt))


def live_jobs() -> list[int]:
    """Numbers of the jobs whose streams matter now."""
    return list(Job.objects.filter(status__in=HOLDS_DEVICES).values_list("pk", flat=True))
