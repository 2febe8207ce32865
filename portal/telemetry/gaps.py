"""Events that were lost on their way: asks their nodes again, and after a while goes on without them.

Knows nothing of how events travel; which are missing, record finds out.
"""

import logging
from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from portal.jobs import dispatch, services
from portal.jobs.models import Attempt
from portal.telemetry.models import AttemptEvent
from portal.telemetry.record import end, mark, received

log = logging.getLogger(__name__)

PATIENCE_S = 60
"""What is missing this long is given up, and the attempt may end."""


def chase(now: datetime | None = None) -> None:
    """Ask for every missing event once more. Gives up only where the node could be asked."""
    now = now or timezone.now()
    rows = Attempt.objects.filter(gap_since__isnull=False).order_by("gap_since")
    if not rows.exists():  # as almost always, and asked at a fraction of the cost
        return
    for attempt in rows.select_related("job", "node").defer("order"):
        sent = dispatch.resend(attempt.job_id, attempt.number, attempt.token, attempt.last_seq, attempt.node.name)
        assert attempt.gap_since is not None
        if sent and now - attempt.gap_since > timedelta(seconds=PATIENCE_S):
            _give_up(attempt)


def _give_up(attempt: Attempt) -> None:
    before = received(attempt)
    gaps = ", ".join(f"{first}–{last}" if first != last else str(first) for first, last in before.missing)
    text = f"Events no. {gaps} of attempt {attempt.number} never arrived within {PATIENCE_S} s; went on without them."
    log.warning("job %s: %s", attempt.job_id, text)
    services.remark(attempt.job_id, text)
    end(attempt)
    mark(attempt, before, before.without_gaps())


def ask_all(since: datetime) -> int:
    """After Redis lost its data: ask for whatever of live attempts, and of those that ended later than `since`, had
    not arrived. Returns how many nodes were asked for."""
    told = AttemptEvent.objects.filter(attempt=OuterRef("pk"), type="finished")
    rows = Attempt.objects.filter(Q(finished_at=None) | Q(finished_at__gte=since)).exclude(Exists(told))
    asked = 0
    for attempt in rows.select_related("node").only("job_id", "number", "token", "last_seq", "node__name"):
        asked += dispatch.resend(attempt.job_id, attempt.number, attempt.token, attempt.last_seq, attempt.node.name)
    return asked
