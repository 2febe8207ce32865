"""What a request holds until its answer is at its end: its place among its caller's, its endpoint, the connection.

Given back when the answer ends, when its client leaves, or when nobody has the answer any more. Knows nothing of what
is asked.
"""

import asyncio
import time

import aiohttp
from channels.db import database_sync_to_async

from portal.serving import replicas
from portal.serving.limits import Admission
from portal.serving.models import Endpoint
from portal.serving.services import mark_asked

RENEW_S = 20.0
"""A request that goes on says so this often, to its limit and to the idle policy."""

_marked_at: dict[int, float] = {}


class Hold:
    """Made once its caller is admitted. A task of its own gives back, so that letting go never waits."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._endpoint: Endpoint | None = None
        self.response: aiohttp.ClientResponse | None = None
        """The endpoint's answer, to be closed at the end."""
        self._loop = asyncio.get_running_loop()
        self._released = asyncio.Event()
        self._task = self._loop.create_task(self._keep())

    async def turn_to(self, endpoint: Endpoint) -> None:
        """The request is this endpoint's now."""
        self._leave_endpoint()
        self._endpoint = endpoint
        replicas.begin(endpoint)
        await self._mark()

    def release(self) -> None:
        """Give everything back; does nothing the second time. Any thread may call it."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._released.set)

    async def _keep(self) -> None:
        while not self._released.is_set():
            try:
                await asyncio.wait_for(self._released.wait(), RENEW_S)
            except TimeoutError:
                await self._mark()
                await self._admission.renew()
        self._leave_endpoint()
        if self.response is not None:
            self.response.close()
        await self._admission.leave()

    def _leave_endpoint(self) -> None:
        if self._endpoint is not None:
            replicas.end(self._endpoint)
            self._endpoint = None

    async def _mark(self) -> None:
        """The endpoint is in use, where that counts."""
        endpoint, now = self._endpoint, time.monotonic()
        if endpoint is None or not endpoint.attempt.job.spec.get("idle_stop_minutes"):
            return
        if now - _marked_at.get(endpoint.pk, float("-inf")) >= RENEW_S:
            _marked_at[endpoint.pk] = now
            await database_sync_to_async(mark_asked)(endpoint)
