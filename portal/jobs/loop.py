"""The scheduling tick: reads queue and fleet, lets the scheduler decide, carries it out; and the sweep beside it.

Knows nothing of events; does not decide anything itself.
"""

import logging
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from portal.fleet.selectors import is_online
from portal.jobs import dispatch, orders, queue, services
from portal.jobs.holdings import fleet, holdings
from portal.jobs.lifecycle import HOLDS_DEVICES, Status
from portal.jobs.models import Attempt
from portal.jobs.scheduler import Placement, Policy, Preempt, Wait, decide
from portal.jobs.usage import Usage
from workers.contract.reasons import Reason

log = logging.getLogger(__name__)
RESEND_AFTER_S = 10
SWEPT = (
    "job__status", "number", "node__name", "node__last_seen_at", "dispatched_at", "started_at", "lease_until",
    "preempt_asked_at",
)  # fmt: skip


def tick(now: datetime | None = None, usage: Usage | None = None) -> int:
    """Schedule once. Returns how many attempts were dispatched. `usage`: counted on from round to round, if given."""
    now = now or timezone.now()
    policy: Policy = settings.LIFTOFF_SCHEDULING
    waiting = queue.read(now)
    if not waiting.jobs:
        return 0
    held = holdings(now, preempts=policy.preempts)
    used = (usage or Usage()).step(held, now, policy.half_life_s)
    decisions = decide(waiting.jobs, fleet(held, now), policy, used, now.timestamp())
    started = services.allocate_all([decision for decision in decisions if isinstance(decision, Placement)])
    for decision in decisions:
        if isinstance(decision, Preempt):
            services.preempt(decision.job, decision.reason)
    queue.tell((decision for decision in decisions if isinstance(decision, Wait)), waiting.told, now)
    return started


def sweep(now: datetime | None = None, *, give_up: bool = True) -> None:
    """Repeat commands that may have been lost on the way, and give up what a node never started.

    `give_up`: whether this controller has heard the nodes long enough to know that none has.
    """
    now = now or timezone.now()
    live = Attempt.objects.filter(finished_at=None, job__status__in=HOLDS_DEVICES).select_related("job", "node")
    for attempt in live.only(*SWEPT).order_by():
        job, node = attempt.job, attempt.node
        waited_s = (now - attempt.dispatched_at).total_seconds()
        if not is_online(node, now):
            continue  # its lease says when to end it (leases)
        if job.status == Status.CANCELLING:
            dispatch.cancel(job.pk, attempt.number, node.name)
        elif attempt.preempt_asked_at is not None:
            dispatch.preempt(job.pk, attempt.number, node.name)
        elif job.status == Status.DISPATCHED and attempt.started_at is None and attempt.lease_until is None:
            if give_up and waited_s > settings.LIFTOFF_START_TIMEOUT_S:
                services.finish(
                    job.pk, attempt.number, Reason.NEVER_STARTED, f"Node {node.name} had {waited_s:.0f} s to start it."
                )
            elif waited_s > RESEND_AFTER_S:
                dispatch.start(orders.rebuild(attempt))
