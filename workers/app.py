"""The Celery side of a worker: one queue, JSON only, acknowledged early, reconnecting for ever.

Celery carries "start this" and "cancel that" and is never a record: no results, no retries, no redelivery to count
on. Doesn't know what the tasks do.
"""

from celery import Celery
from celery.apps.worker import Worker

from workers.contract.names import broker_url, node_queue
from workers.contract.order import MOST_SHARING

VISIBILITY_TIMEOUT_S = 86_400
"""Seconds after which Redis hands an unacknowledged message out again; the same for all who use a broker.

Messages are acknowledged before they are carried out, so this covers a worker that died holding some unread.
"""

SOCKET_TIMEOUT_S = 30


def make_app(redis_url: str, node: str) -> Celery:
    """A Celery app that consumes `node.<name>` and nothing else."""
    app = Celery("liftoff-worker", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_default_queue=node_queue(node),
        worker_prefetch_multiplier=1,
        worker_enable_prefetch_count_reduction=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
    )
    return app


def make_worker(app: Celery, node: str, devices: int) -> Worker:
    """A thread for each run that the devices can hold, one for a run that is still being ended, one so that no command
    waits behind a run. They are made when they are needed."""
    return app.Worker(
        hostname=f"liftoff@{node}",
        pool_cls="threads",
        concurrency=devices * MOST_SHARING + 2,
        queues=[node_queue(node)],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
