"""One reader of a job's stream per process, many viewers: each with a cursor and a bounded queue.

A viewer that falls behind loses its queue and reads the stream again from its cursor, so it misses nothing and sees
nothing twice. Knows nothing of websockets or the store.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio
from django.conf import settings

from portal.telemetry.cursor import Cursor
from workers.contract.events import Envelope, StreamBatch
from workers.contract.names import job_stream, rank_of

log = logging.getLogger(__name__)

PAUSE_S = 0.1
QUEUE_SIZE = 256
READ_COUNT = 500


class Viewer:
    """One subscription. `batches()` yields lists of envelopes newer than the cursor, for ever."""

    def __init__(self, hub: "Hub", cursor: Cursor) -> None:
        self._hub = hub
        self._queue: asyncio.Queue[list[Envelope]] = asyncio.Queue(QUEUE_SIZE)
        self._behind = True  # starts by reading what the stream holds already
        self.cursor = cursor

    def offer(self, envelopes: list[Envelope]) -> None:
        """Take a live batch; a full queue is emptied, and the viewer reads the stream again."""
        try:
            self._queue.put_nowait(envelopes)
        except asyncio.QueueFull:
            while not self._queue.empty():
                self._queue.get_nowait()
            self._behind = True
            self._queue.put_nowait([])  # wakes it

    async def batches(self) -> AsyncIterator[list[Envelope]]:
        """Envelopes in order of (attempt, seq), each once."""
        while True:
            if self._behind:
                self._behind = False
                async for batch in self._hub.backlog():
                    if new := self._newer(batch):
                        yield new
            if new := self._newer(await self._queue.get()):
                yield new

    def _newer(self, envelopes: list[Envelope]) -> list[Envelope]:
        new = [e for e in envelopes if (e.attempt, e.seq) > self.cursor]
        if new:
            self.cursor = Cursor(new[-1].attempt, new[-1].seq)
        return new


class Hub:
    """The reader of one job's stream. Runs while it has viewers."""

    def __init__(self, job: int, client: "redis.asyncio.Redis") -> None:
        self._stream = job_stream(job)
        self._client = client
        self._place: str | None = None
        self._ready = asyncio.Event()
        self.over = False
        """Nobody watches any more: a client that is interrupted while it reads may not pass the cancellation on."""
        self.viewers: set[Viewer] = set()

    async def subscribe(self, cursor: Cursor) -> Viewer:
        """A viewer whose queue collects from now on; what is older it reads from the stream itself."""
        viewer = Viewer(self, cursor)
        self.viewers.add(viewer)
        await self._ready.wait()
        return viewer

    async def backlog(self) -> AsyncIterator[list[Envelope]]:
        """Every batch the stream holds, oldest first."""
        place = "-"
        while True:
            entries = await self._range(place)
            for _, fields in entries:
                yield _envelopes(fields)
            if len(entries) < READ_COUNT:
                return
            place = f"({entries[-1][0]}"

    async def run(self) -> None:
        """Read and hand out until cancelled, or over; an outage of Redis delays."""
        while not self.over:
            try:
                if self._place is None:
                    last: Any = await self._client.xrevrange(self._stream, count=1)
                    self._place = last[0][0] if last else "0-0"
                    self._ready.set()
                await self._read()
            except (redis.RedisError, OSError) as error:
                log.warning("live hub waits for Redis: %s", error)
                self._ready.set()
                await asyncio.sleep(1.0)
            await asyncio.sleep(PAUSE_S)

    async def _range(self, start: str) -> list[tuple[str, dict[str, str]]]:
        entries: Any = await self._client.xrange(self._stream, min=start, count=READ_COUNT)
        return list(entries)

    async def _read(self) -> None:
        entries = await self._range(f"({self._place}")
        if not entries:
            return
        self._place = entries[-1][0]
        merged = [envelope for _, fields in entries for envelope in _envelopes(fields)]
        for viewer in self.viewers:
            viewer.offer(merged)


def _envelopes(fields: dict[str, str]) -> list[Envelope]:
    """Of an attempt on several nodes, what the first one says: the others number theirs by themselves."""
    try:
        envelopes = StreamBatch.model_validate_json(fields["batch"]).envelopes
    except (ValueError, KeyError):
        return []
    return [envelope for envelope in envelopes if rank_of(envelope.token) == 0]


_hubs: dict[tuple[int, int], tuple[Hub, "asyncio.Task[None]"]] = {}
"""(event loop, job) → its hub and the task that runs it."""


@contextlib.asynccontextmanager
async def watch(job: int, cursor: Cursor) -> AsyncIterator[Viewer]:
    """Subscribe to a job's live events after `cursor`."""
    key = (id(asyncio.get_running_loop()), job)
    if key not in _hubs:
        client = redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_timeout=30, decode_responses=True)
        hub = Hub(job, client)
        _hubs[key] = (hub, asyncio.create_task(hub.run()))
    hub, task = _hubs[key]
    viewer = await hub.subscribe(cursor)
    try:
        yield viewer
    finally:
        hub.viewers.discard(viewer)
        if not hub.viewers and key in _hubs:
            del _hubs[key]
            hub.over = True
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await hub._client.aclose()
