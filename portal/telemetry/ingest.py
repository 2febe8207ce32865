"""Reads the Redis streams as a consumer group and records what they carry: at least once, acknowledged when stored.

One stream a live job and one for the nodes' heartbeats. Does not know what an event means (record), nor what follows
from a heartbeat (fleet.services, jobs.reconcile).
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import redis
from django.conf import settings
from django.db import DataError, close_old_connections
from django.utils import timezone
from pydantic import ValidationError

from portal.fleet import services as fleet
from portal.jobs.leases import Hearing
from portal.jobs.lifecycle import LIVE
from portal.jobs.models import Job
from portal.jobs.reconcile import Reconciler
from portal.telemetry.record import record
from workers.contract.events import Envelope, Heartbeat, StreamBatch
from workers.contract.names import INGEST_GROUP, NODE_STREAM, job_stream

log = logging.getLogger(__name__)

BLOCK_MS = 250
COUNT = 200
FIGURES, FIGURES_S = frozenset(("progress", "metric", "log")), 1.0
"""What those who watch have seen on the stream itself already; after these alone the next round waits a moment."""
LATE_S = 600
"""A finished job's stream is still read this long, for events that a broker outage held back."""
KEEP_STREAM_S = 3600
LIST_S = 1.0
"""So often it looks which jobs have streams, and whenever it is told that there may be another."""
LEFT_EVERY_S = 5.0
"""So often it looks for entries that another controller read, as the last thing it did, and did not acknowledge."""
Entry = tuple[str, dict[str, str]]
"""Id and fields of one entry of a stream."""


def connect() -> "redis.Redis":
    """A client with time-outs above any blocking read."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=30, socket_connect_timeout=5, decode_responses=True)


class Ingest:
    """The controller's reader. `once()` is one round; `run()` goes on until told to stop."""

    def __init__(
        self,
        client: "redis.Redis | None" = None,
        consumer: str = "controller",
        hearing: Hearing | None = None,
        reconciler: Reconciler | None = None,
        clock: Callable[[], float] = time.monotonic,
        list_s: float = 0.0,
    ) -> None:
        """`hearing` is told when the nodes were heard; `reconciler` what they said. `clock`: monotonic seconds;
        `list_s`: for how long the list of streams is good."""
        self._client = client or connect()
        self._consumer = consumer
        self._hearing = hearing or Hearing()
        self._reconciler = reconciler or Reconciler()
        self._clock = clock
        self._list_s = list_s
        self._left_at = clock() + LEFT_EVERY_S
        self._list_at = float("-inf")
        self._streams: list[str] = []
        self._known: set[str] = set()
        self._pending: set[str] = set()
        """Streams that may hold entries which were read and not acknowledged."""
        self._behind: set[str] = set()
        """Streams that hold more than the last read took."""
        self._said: set[str] = set()
        """Types of the events that the last round recorded."""

    def run(self, stop: threading.Event, leads: Callable[[], bool] = lambda: True) -> None:
        """Record until `stop` while this controller `leads`; an outage of Redis or the database delays, and is logged
        once."""
        failing = False
        while not stop.is_set():
            try:
                close_old_connections()
                if not leads():
                    self._begin_anew()
                    stop.wait(0.2)
                    continue
                self.once()
                if self._said and self._said <= FIGURES and not self._behind:
                    stop.wait(FIGURES_S)
                if failing:
                    log.info("ingest goes on")
                failing = False
            except Exception as error:  # whatever fails, the entries are unacknowledged and come again
                if not failing:
                    log.exception("ingest waits: %s", error)
                failing = True
                self._begin_anew()
                stop.wait(1.0)

    def begins(self) -> None:
        """There may be another job's stream. Any thread may call it."""
        self._list_at = float("-inf")

    def once(self) -> int:
        """One round over all streams. Returns how many entries were recorded."""
        self._said = set()
        streams = self._listed()
        self._join([stream for stream in streams if stream not in self._known])
        if (now := self._clock()) >= self._left_at:
            self._left_at = now + LEFT_EVERY_S
            self._pending |= self._known
        self._pending &= set(streams)
        again = {stream: "0" for stream in streams if stream in self._pending}
        done = self._read(again, block=None) if again else 0
        began = self._hearing.listening()
        done += self._read(dict.fromkeys(streams, ">"), block=BLOCK_MS)
        if NODE_STREAM in self._known and not {NODE_STREAM} & (self._pending | self._behind):
            self._hearing.heard(began)
        return done

    def _listed(self) -> list[str]:
        if (now := self._clock()) >= self._list_at:
            self._list_at = now + self._list_s  # before it looks: what begins meanwhile is seen in the next round
            self._streams = [NODE_STREAM, *(job_stream(job) for job in recent_jobs())]
        return self._streams

    def _begin_anew(self) -> None:
        self._list_at = float("-inf")
        self._known.clear()
        self._behind.clear()
        self._hearing.lost()
        self._reconciler.forget()

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
            if NODE_STREAM in str(error):
                self._begin_anew()  # Redis lost its data
            self._known.clear()  # make the groups again
            return 0
        done = 0
        found = dict(answer.items() if isinstance(answer, dict) else answer or [])
        if block is not None:
            self._behind = {stream for stream, entries in found.items() if len(_flat(entries)) >= COUNT}
        # Heartbeats last: by then what the runs said before them is stored.
        for stream in sorted(found, key=lambda name: name == NODE_STREAM):
            entries = _flat(found[stream])
            if not entries:
                self._pending.discard(stream)
                continue
            if stream == NODE_STREAM:
                self._hear(entries)
            else:
                self._record(stream, entries)
            self._client.xack(stream, INGEST_GROUP, *[entry_id for entry_id, _ in entries])
            done += len(entries)
        return done

    def _record(self, stream: str, entries: list[Entry]) -> None:
        envelopes: list[Envelope] = []
        for entry_id, fields in entries:
            try:
                envelopes += StreamBatch.model_validate_json(fields["batch"]).envelopes
            except (ValidationError, KeyError, TypeError) as error:  # the last: trimmed while it was pending
                _skip(stream, entry_id, error)
        for key, of_one in groupby(envelopes, key=lambda one: (one.job, one.attempt, one.token)):
            try:
                record(list(of_one))
            except (DataError, ValueError, TypeError):
                # It would fail again and again, and hold up every other run.
                log.exception("events of job %s attempt %s can't be stored and were skipped", *key[:2])
        said = {envelope.event.type for envelope in envelopes}
        self._said |= said
        if "finished" in said:
            self._client.expire(stream, KEEP_STREAM_S)

    def _hear(self, entries: list[Entry]) -> None:
        """The newest word of each node, and every profile."""
        beats: dict[str, Heartbeat] = {}
        heard_at: dict[str, datetime] = {}
        # How old an entry is, the clock that dated it says; nodes and Redis need not agree on the time.
        now, (seconds, microseconds) = timezone.now(), self._client.time()
        for entry_id, fields in entries:
            try:
                beat = Heartbeat.model_validate_json(fields["beat"])
            except (ValidationError, KeyError, TypeError) as error:
                _skip(NODE_STREAM, entry_id, error)
                continue
            if beat.profile is not None:
                fleet.record_profile(beat.profile)
            age_s = seconds + microseconds / 1e6 - int(entry_id.split("-")[0]) / 1000
            beats[beat.node], heard_at[beat.node] = beat, now - timedelta(seconds=max(age_s, 0))
        fleet.heard(heard_at)
        unread = self._behind | self._pending
        behind = {job for job in recent_jobs() if job_stream(job) in unread} if unread else ()
        self._reconciler.heard(beats, behind, now)


def _flat(entries: Any) -> list[Entry]:
    """Entries of one stream; protocol 3 wraps them once more."""
    return entries[0] if entries and isinstance(entries[0], list) else entries or []


def _skip(stream: str, entry_id: str, error: Exception) -> None:
    log.warning("entry %s of %s can't be read and was skipped: %s", entry_id, stream, str(error)[:300])


def recent_jobs() -> list[int]:
    """Jobs whose streams may hold something new: those under way, and those that ended within LATE_S."""
    ended = Job.objects.filter(finished_at__gte=timezone.now() - timedelta(seconds=LATE_S), attempt_number__gt=0)
    live = Job.objects.filter(status__in=LIVE, attempt_number__gt=0)
    return [pk for rows in (live, ended) for pk in rows.order_by().values_list("pk", flat=True)]


def lag_seconds() -> float:
    """Age of the oldest entry not recorded yet, seconds; 0 when all is recorded."""
    client = connect()
    oldest = None
    for stream in [NODE_STREAM, *(job_stream(job) for job in recent_jobs())]:
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
