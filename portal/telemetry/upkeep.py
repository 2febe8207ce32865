"""What the leading controller looks after every few seconds, beside scheduling: leases, gaps, lost commands, launches
that nobody asks anything.

Each part goes on where another fails. Does not schedule (jobs.loop) nor record (ingest).
"""

import logging
from collections.abc import Callable
from datetime import timedelta

import redis
from django.db import Error
from django.utils import timezone

from portal.jobs import fences, leases, loop
from portal.serving import idle
from portal.telemetry import gaps
from portal.telemetry.ingest import LATE_S

log = logging.getLogger(__name__)


def upkeep(term: int, hearing: leases.Hearing, *, seldom: bool = True) -> None:
    """One round of a controller that leads for the `term`-th time and has heard the nodes by `hearing`.

    `seldom`: see also to what is told by the minute.
    """
    heard = hearing.whole_lease()
    _try(lambda: _leases(term))
    _try(lambda: loop.sweep(give_up=heard is not None))
    _try(gaps.chase)
    if heard:
        _try(lambda: leases.expire(heard))
    if seldom:
        _try(idle.stop_idle)


def _leases(term: int) -> None:
    """Nodes find their leases; if Redis had lost them, it may have lost events as well."""
    if fences.publish(term):
        asked = gaps.ask_all(timezone.now() - timedelta(seconds=LATE_S))
        log.info("the leases are in Redis, which had none; asked for the events of %d attempts again", asked)


def _try(part: Callable[[], object]) -> None:
    try:
        part()
    except (redis.RedisError, OSError, Error) as error:
        log.warning("upkeep waits: %s", error)
