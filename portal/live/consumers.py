"""Websockets: one job's history and live events, and a bell for the list of jobs.

Shows, never writes. Signed-in users of the portal's own origin only.
"""

import asyncio
import contextlib
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from portal.jobs.models import Job
from portal.jobs.notify import ALL_JOBS, job_group
from portal.jobs.selectors import get_job
from portal.live.hub import watch
from portal.telemetry import cursor as places
from portal.telemetry import selectors
from portal.telemetry.cursor import START, Cursor
from workers.contract.errors import Refused
from workers.contract.events import Envelope

SIGN_IN, NOT_FOUND, BAD_CURSOR = 4401, 4404, 4400
LOG_TAIL = 500
LOG_CATCH_UP = 5000


class JobConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """See the message types in docs/live.md."""

    _task: "asyncio.Task[None] | None" = None
    _pk: int

    async def connect(self) -> None:
        await self.accept()
        self._pk = self.scope["url_route"]["kwargs"]["pk"]
        if not self.scope["user"].is_authenticated:
            await self.close(SIGN_IN)
            return
        try:
            since = places.parse(_query(self.scope).get("since"))
            job = await database_sync_to_async(get_job)(self._pk)
        except Refused:
            await self.close(BAD_CURSOR)
            return
        except Job.DoesNotExist:
            await self.close(NOT_FOUND)
            return
        await self.channel_layer.group_add(job_group(self._pk), self.channel_name)
        await self._send_snapshot()
        self._task = asyncio.create_task(self._stream(job, since))

    async def disconnect(self, code: int) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if hasattr(self, "_pk"):
            await self.channel_layer.group_discard(job_group(self._pk), self.channel_name)

    async def job_changed(self, event: dict[str, Any]) -> None:
        await self._send_snapshot()

    async def _send_snapshot(self) -> None:
        await self.send_json({"type": "snapshot", "job": await database_sync_to_async(_snapshot)(self._pk)})

    async def _stream(self, job: Job, since: Cursor) -> None:
        history, stored = await database_sync_to_async(_history)(job, since)
        await self.send_json(history)
        async with watch(self._pk, max(since, stored)) as viewer:
            async for batch in viewer.batches():
                await self.send_json(
                    {"type": "events", "events": [_event(e) for e in batch], "cursor": str(viewer.cursor)}
                )


class JobListConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """Says which job changed; the page asks for what it shows."""

    async def connect(self) -> None:
        await self.accept()
        if not self.scope["user"].is_authenticated:
            await self.close(SIGN_IN)
            return
        await self.channel_layer.group_add(ALL_JOBS, self.channel_name)

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(ALL_JOBS, self.channel_name)

    async def job_changed(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "changed", "job": event["job"]})


def _snapshot(pk: int) -> dict[str, Any]:
    return selectors.snapshot(get_job(pk))


def _history(job: Job, since: Cursor) -> tuple[dict[str, Any], Cursor]:
    """The history message, and the place up to which it is whole. What came later is the stream's to tell."""
    stored = selectors.stored_cursor(job)
    metrics = {
        name: [
            [p["step"], p["at"], p["value"], p["attempt"], p["seq"]]
            for p in points
            if (p["attempt"], p["seq"]) <= stored
        ]
        for name, points in selectors.metrics(job, since=since).items()
    }
    tail = since == START
    logs = selectors.log_lines(job, since=since, limit=LOG_TAIL if tail else LOG_CATCH_UP, tail=tail)
    logs = [line for line in logs if (line["attempt"], line["seq"]) <= stored]
    message = {"type": "history", "metrics": metrics, "logs": logs, "cursor": str(max(since, stored))}
    return message, stored


def _event(envelope: Envelope) -> dict[str, Any]:
    body = envelope.event.model_dump(mode="json")
    return {**body, "attempt": envelope.attempt, "seq": envelope.seq, "at": envelope.at}


def _query(scope: dict[str, Any]) -> dict[str, str]:
    text = scope.get("query_string", b"").decode("latin-1")
    return dict(part.split("=", 1) for part in text.split("&") if "=" in part)
