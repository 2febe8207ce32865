"""Tells viewers that a job's state changed, by a rare group message. Metrics and logs never go this way.

Knows nothing of who listens; a lost message only delays what a viewer sees until the next one.
"""

import logging

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

log = logging.getLogger(__name__)

ALL_JOBS = "jobs"


def job_group(job: int) -> str:
    """Channel group of one job's viewers."""
    return f"job.{job}"


def job_changed(job: int) -> None:
    """After the transaction commits, tell the viewers of this job and of the list."""
    transaction.on_commit(lambda: _send(job))


def _send(job: int) -> None:
    layer = get_channel_layer()
    try:
        for group in (job_group(job), ALL_JOBS):
            async_to_sync(layer.group_send)(group, {"type": "job.changed", "job": job})
    except Exception as error:  # Redis is down: viewers catch up with the next message
        log.warning("could not announce job %s: %s", job, error)
