"""Starts a launch again that was stopped for being idle, and waits for one that is on its way.

The first request starts a copy of the launch; all others find that copy. Knows nothing of HTTP.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings

from portal.accounts.credentials import Caller
from portal.accounts.services import audit
from portal.jobs import services
from portal.jobs.lifecycle import FINAL, Status
from portal.jobs.models import Job
from portal.serving.models import Endpoint
from portal.serving.selectors import live_endpoints
from workers.contract.errors import Refused
from workers.contract.reasons import Reason

LOOK_S = 0.5
SAY_S = 10.0
"""Whoever waits hears something at least this often."""


class NotWoken(Exception):
    """Why there is nobody to ask; `retry_after_s`: after how long there may be, None when waiting won't help."""

    def __init__(self, sentence: str, retry_after_s: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


def wake(launch: Job, caller: Caller) -> Job:
    """The job to wait for: the launch itself while it lives, else its copy, made by the first who asks.

    The key makes it the only one, whoever else asks at the same moment. Raises Refused where what it names is gone.
    """
    if launch.status not in FINAL:
        return launch
    spec: dict[str, Any] = launch.spec
    job, new = services.submit(launch.owner, spec, idempotency_key=f"wake-{launch.pk}", cloned_from=launch)
    if new:
        audit(caller.user, "wake launch", f"job #{launch.pk}", f"job #{job.pk}")
    return job


async def awaken(launch: Job, caller: Caller) -> AsyncIterator[str | list[Endpoint]]:
    """Words on how far it is, whenever they change and every SAY_S; in the end the endpoints that answer.

    Raises NotWoken when it ends instead, or takes longer than LIFTOFF_WAKE_S.
    """
    try:
        job = await database_sync_to_async(wake)(launch, caller)
    except Refused as refused:
        raise NotWoken(f"Launch #{launch.pk} can't be started again: {refused}") from None
    began, told, told_at = time.monotonic(), "", 0.0
    while True:
        job, endpoints = await database_sync_to_async(_look)(job.pk)
        now = time.monotonic()
        if endpoints:
            yield endpoints
            return
        if job.status in FINAL and job.reason == Reason.IDLE:
            job = await database_sync_to_async(wake)(job, caller)
        elif job.status in FINAL:
            raise NotWoken(f"Job #{job.pk}, which was to answer, ended: {job.get_sentence()} Launch it again.")
        elif now - began > settings.LIFTOFF_WAKE_S:
            raise NotWoken(f"Job #{job.pk} still starts ({_words(job)}); ask again in a while.", retry_after_s=30)
        elif _words(job) != told or now - told_at > SAY_S:
            told, told_at = _words(job), now
            yield told
        await asyncio.sleep(LOOK_S)


def _look(pk: int) -> tuple[Job, list[Endpoint]]:
    job = Job.objects.select_related("owner").get(pk=pk)
    return job, list(live_endpoints().filter(attempt__job__in=[pk, *job.replicas.values_list("pk", flat=True)]))


def _words(job: Job) -> str:
    if job.status == Status.QUEUED:
        return f"job #{job.pk} waits: {job.waiting_for}"
    return f"job #{job.pk}: {job.phase or 'starting'}"
