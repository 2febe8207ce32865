"""Rings the leading controller when a job is submitted or has ended, so that no device waits for its next round.

A list of at most one entry in Redis. A ring that is lost costs a round's pause and nothing else. Decides nothing.
"""

import logging
import threading

import redis

from portal.jobs.connection import client

log = logging.getLogger(__name__)

BELL = "liftoff:bell"


def ring() -> None:
    """There is something to decide. Raises nothing."""
    try:
        with client().pipeline() as pipe:
            pipe.lpush(BELL, "")
            pipe.ltrim(BELL, 0, 0)
            pipe.execute()
    except (redis.RedisError, OSError) as error:
        log.warning("the controller was not rung: %s", error)


def wait(stop: threading.Event, seconds: float) -> bool:
    """Until it rings or the time is over; also without Redis. Whether to stop."""
    try:
        client().blpop([BELL], timeout=seconds)
    except (redis.RedisError, OSError):
        stop.wait(seconds)
    return stop.is_set()
