"""Tells viewers that a job's state changed, by a rare group message. Metrics and logs never go this way.

Knows nothing of who listens; a lost message only delays what a viewer sees until the next one.
"""

import asyncio
import logging

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

log = logging.getLogger(__name__)

ALL_JOBS = "jobs"
AT_ONCE = 10
"""Messages on their way at a time; each takes a connection of the channel layer."""


def job_group(job: int) -> str:
    """Channel group of one job's viewers."""
    return f"job.{job}"


def job_changed(job: int) -> None:
    """After the transaction commits, tell the viewers of this job and of the list."""
    jobs_changed([job])


def jobs_changed(jobs: list[int]) -> None:
    """The same for several; those who view the list hear of the first."""
    transaction.on_commit(lambda: _send(jobs))


def _send(jobs: list[int]) -> None:
    try:
        async_to_sync(_send_all)(jobs)
    except Exception as error:  # Redis is down: viewers catch up with the next message
        log.warning("could not announce %s: %s", ", ".join(f"job {job}" for job in jobs[:5]), error)


async def _send_all(jobs: list[int]) -> None:
    layer = get_channel_layer()
    groups = [(ALL_JOBS, jobs[0]), *((job_group(job), job) for job in jobs)]
    for at in range(0, len(groups), AT_ONCE):
        some = groups[at : at + AT_ONCE]
        await asyncio.gather(*(layer.group_send(group, {"type": "job.changed", "job": job}) for group, job in some))
