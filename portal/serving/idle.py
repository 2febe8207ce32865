"""Stops launches that were asked nothing for as long as their spec allows. Knows nothing of requests but their time.

A load test goes past the gateway and counts as one long request: it keeps its launch awake, and the time begins anew
when it ends.
"""

import logging
from collections import defaultdict
from datetime import datetime, timedelta

from django.utils import timezone

from portal.jobs import load_tests, services
from portal.jobs.models import Job
from portal.serving.models import Endpoint
from portal.serving.selectors import live_endpoints
from workers.contract.reasons import Reason

log = logging.getLogger(__name__)


def stop_idle(now: datetime | None = None) -> list[Job]:
    """Stop each launch, with all its replicas, none of which had a request lately. Returns the stopped ones."""
    now = now or timezone.now()
    of_launch: dict[Job, list[Endpoint]] = defaultdict(list)
    watched = live_endpoints().filter(attempt__job__spec__idle_stop_minutes__gt=0)
    for endpoint in watched.select_related("attempt__job__replica_of"):
        of_launch[endpoint.attempt.job.replica_of or endpoint.attempt.job].append(endpoint)
    return [launch for launch, endpoints in of_launch.items() if _stopped(launch, endpoints, now)]


def _stopped(launch: Job, endpoints: list[Endpoint], now: datetime) -> bool:
    minutes = launch.spec["idle_stop_minutes"]
    last = max(endpoint.asked_at or endpoint.ready_at for endpoint in endpoints)
    if now - last < timedelta(minutes=minutes):
        return False
    tested = load_tests.latest_end([endpoint.attempt.job_id for endpoint in endpoints], now)
    if tested is not None and now - tested < timedelta(minutes=minutes):
        return False
    log.info("launch %s had no request for %d min", launch.pk, minutes)
    services.cancel(launch, None, f"Stopped: no request for {minutes} min.", Reason.IDLE)
    return True
