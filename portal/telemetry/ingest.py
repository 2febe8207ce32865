"""Reads the Redis streams as a consumer group and records what they carry: at least once, acknowledged when stored.

One stream a live job and one for the nodes' heartbeats. Does not know what an event means (record, fleet.services).
"""

import logging
import threading
import time
from datetime import timedelta
from typing import Any

import redis
from django.conf import settings
from django.db import close_old_connections
from django.utils import timezone
from pydantic import ValidationError

from portal.fleet import services as fleet
from portal.jobs.models import Job
from portal.telemetry.record import record
from workers.contract.events import Heartbeat, StreamBatch
from workers.contract.names import INGEST_GROUP, NODE_STREAM, job_stream

log = logging.getLogger(__name__)

BLOCK_MS = 100
COUNT = 200
LATE_S = 600
"""A finished job's stream is still read this long, for events that a broker outage held back."""
KEEP_STREAM_S = 3600


def connect() -> "redis.Redis":
    """A client with time-outs above any blocking read."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=30, socket_connect_timeout=5, decode_responses=True)


class Ingest:
    """The controller's reader. `once()` is one round; `run()` goes on until told to stop."""

    def __init__(self, client: "redis.Redis | None" = None, consumer: str = "controller") -> None:
        self._client = client or connect()
        self._consumer = consumer
        self._known: set[str] = set()
        self._pending: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        """Record until `stop`; an outage of Redis or the database delays, and is logged once."""
        failing = False
        while not stop.is_set():
            try:
                close_old_connections()
                self.once()
                if failing:
                    log.info("ingest goes on")
                failing = False
            except Exception as error:  # whatever fails, the entries are unacknowledged and come again
                if not failing:
                    log.exception("ingest waits: %s", error)
                failing = True
                self._known.clear()
                stop.wait(1.0)

    def once(self) -> int:
        """One round over all streams. Returns how many entries were recorded."""
        streams = [NODE_STREAM, *(job_stream(job) for job in self._jobs())]
        self._join([stream for stream in streams if stream not in self._known])
        again = {stream: "0" for stream in streams if stream in self._pending}
        done = self._read(again, block=None) if again else 0
        return done + self._read(dict.fromkeys(streams, ">"), block=BLOCK_MS)

    def _jobs(self) -> list[int]:
        recent = timezone.now() - timedelta(seconds=LATE_S)
        rows = Job.objects.filter(attempt_number__gt=0).exclude(finished_at__lt=recent)
        return list(rows.values_list("pk", flat=True))

    def _join(self, streams: list[str]) -> None:
        for stream in streams:
            try:
                self._client.xgroup_create(stream, INGEST_GROUP, id="0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            self._known.add(stream)
            # What an earlier controller read but did not acknowledge comes first.
            self._pending.add(stream)

    def _read(self, places: dict[str, str], block: int | None) -> int:
        try:
            answer: Any = self._client.xreadgroup(INGEST_GROUP, self._consumer, places, count=COUNT, block=block)  # type: ignore[arg-type]
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self._known.clear()  # Redis lost its data: make the groups again
            return 0
        done = 0
        found = answer.items() if isinstance(answer, dict) else answer or []
        for stream, entries in found:
            entries = entries[0] if isinstance(answer, dict) and entries and isinstance(entries[0], list) else entries
            self._record(stream, entries)
            done += len(entries)
            if not entries:
                self._pending.discard(stream)
        return done

    def _record(self, stream: str, entries: list[tuple[str, dict[str, str]]]) -> None:
        for entry_id, fields in entries:
            try:
                if stream == NODE_STREAM:
                    fleet.heartbeat(Heartbeat.model_validate_json(fields["beat"]))
                else:
                    batch = StreamBatch.model_validate_json(fields["batch"])
                    record(batch.envelopes)
                    if any(envelope.event.type == "finished" for envelope in batch.envelopes):
                        self._client.expire(stream, KEEP_STREAM_S)
            except (ValidationError, KeyError) as error:
                log.warning("entry %s of %s can't be read and was skipped: %s", entry_id, stream, str(error)[:300])
            self._client.xack(stream, INGEST_GROUP, entry_id)


def lag_seconds() -> float:
    """Age of the oldest entry not recorded yet, seconds; 0 when all is recorded."""
    client = connect()
    oldest = None
    recent = timezone.now() - timedelta(seconds=LATE_S)
    jobs = Job.objects.filter(attempt_number__gt=0).exclude(finished_at__lt=recent).values_list("pk", flat=True)
    for stream in [NODE_STREAM, *(job_stream(job) for job in jobs)]:
        first = _first_unread(client, stream)
        if first is not None:
            oldest = first if oldest is None else min(oldest, first)
    return max(0.0, time.time() - oldest) if oldest is not None else 0.0


def _first_unread(client: "redis.Redis", stream: str) -> float | None:
    """Unix seconds of the first entry after the group's place, from its id."""
    try:
        groups: Any = client.xinfo_groups(stream)
    except redis.ResponseError:
        return None
    place = next((group["last-delivered-id"] for group in groups if group["name"] == INGEST_GROUP), "0-0")
    entries: Any = client.xrange(stream, min=f"({place}", count=1)
    return int(entries[0][0].split("-")[0]) / 1000 if entries else None
