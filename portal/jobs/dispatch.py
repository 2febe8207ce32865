"""Commands to nodes over Celery: start an attempt, cancel it, end it, send its events again. Fire and forget.

The database stays the record, and every command may be sent twice; the sweep repeats what may have been lost.
Knows nothing of states: a caller has already written what it wants to be true.
"""

import logging
from collections.abc import Sequence
from functools import cache

import redis
from celery import Celery
from django.conf import settings

from portal.jobs import fences
from portal.jobs.connection import client
from workers.contract.names import (
    CANCEL_TASK,
    PREEMPT_TASK,
    RESEND_TASK,
    REVOKE_TASK,
    START_TASK,
    broker_url,
    job_stream,
    node_queue,
)
from workers.contract.order import Order

log = logging.getLogger(__name__)


@cache
def _celery() -> Celery:
    app = Celery("liftoff", broker=broker_url(settings.REDIS_URL))
    app.conf.update(
        task_serializer="json",
        task_ignore_result=True,
        broker_transport_options={"socket_timeout": 30, "socket_connect_timeout": 5, "visibility_timeout": 86_400},
        broker_connection_retry_on_startup=False,
    )
    return app


LAPSE_S = 300.0
"""A command older than this is for nobody any more; whatever still needs it is sent again."""


def _send(task: str, args: list[object], node: str, expires_s: float = LAPSE_S) -> bool:
    try:
        _celery().send_task(
            task, args=args, queue=node_queue(node), retry=False, expires=expires_s, argsrepr="", kwargsrepr=""
        )
    except Exception as error:  # any transport's error: the caller's sweep sends again
        log.warning("could not send %s to node %s: %s", task, node, error)
        return False
    return True


def start(order: Order) -> bool:
    """Tell the order's node to start it. False when the broker could not be reached; sending twice is harmless.

    Its lease is there before it is sent.
    """
    return fences.grant([order]) and _send_start(order)


def begin(orders: Sequence[Order]) -> None:
    """`start` for new attempts. Before a job's first one nothing of it can have run: a stream of its name is stale."""
    fresh = {job_stream(order.job) for order in orders if order.attempt == 1}
    try:
        if fresh:
            client().delete(*fresh)
    except (redis.RedisError, OSError) as error:
        log.warning("could not clear the streams of %d new jobs: %s", len(fresh), error)
    if fences.grant(orders):
        for order in orders:
            _send_start(order)


def _send_start(order: Order) -> bool:
    """The message lapses when the portal would have given the attempt up, so a node that comes back late starts
    nothing."""
    return _send(START_TASK, [order.model_dump(mode="json")], order.node, settings.LIFTOFF_START_TIMEOUT_S)


def cancel(job: int, attempt: int, node: str) -> bool:
    """Tell the node to end the attempt. False when the broker could not be reached; sending twice is harmless."""
    return _send(CANCEL_TASK, [job, attempt], node)


def preempt(job: int, attempt: int, node: str) -> bool:
    """Tell the node to checkpoint the attempt and end it. As `cancel`."""
    return _send(PREEMPT_TASK, [job, attempt], node)


def revoke(job: int, attempt: int, token: str, node: str) -> bool:
    """Tell the node that the attempt is not its any more: kill it, write nothing. As `cancel`."""
    return _send(REVOKE_TASK, [job, attempt, token], node)


def resend(job: int, attempt: int, token: str, after_seq: int, node: str) -> bool:
    """Ask the node for the attempt's events after `after_seq` again. As `cancel`."""
    return _send(RESEND_TASK, [job, attempt, token, after_seq], node)
