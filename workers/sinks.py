"""Where events and heartbeats go: the `EventSink` port, Redis streams behind it, and a twin in memory.

A sink raises when it can't deliver; whoever calls it tries again. Doesn't know how events are spooled.
"""

import threading
from typing import Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.contract.events import Envelope, Heartbeat, StreamBatch
from workers.contract.names import NODE_STREAM, job_stream

JOB_STREAM_ENTRIES = 20_000
NODE_STREAM_ENTRIES = 1_000
JOB_STREAM_SECONDS = 7 * 24 * 3600
"""A job's stream is forgotten this long after its last event; the database has had it by then."""

SOCKET_TIMEOUT_S = 10.0


class SinkDown(ConnectionError):
    """The events could not be delivered now; the same call may succeed later."""


class EventSink(Protocol):
    """Takes events in order of (job, attempt, seq), at least once. Raises SinkDown."""

    def ship(self, envelopes: list[Envelope]) -> None:
        """Deliver envelopes of one attempt, all or none of them."""
        ...

    def beat(self, heartbeat: Heartbeat) -> None:
        """Deliver a node's word."""
        ...


class RedisSink:
    """One stream a job, and one for all nodes. Threads may share it."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(
            redis_url,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            health_check_interval=30,
            # The caller backs off by itself; a hidden second try would only repeat batches.
            retry=Retry(NoBackoff(), 0),
        )

    def ship(self, envelopes: list[Envelope]) -> None:
        if not envelopes:
            return
        stream = job_stream(envelopes[0].job)
        batch = StreamBatch(envelopes=envelopes).model_dump_json()
        try:
            with self._redis.pipeline() as pipe:
                pipe.xadd(stream, {"batch": batch}, maxlen=JOB_STREAM_ENTRIES, approximate=True)
                pipe.expire(stream, JOB_STREAM_SECONDS)
                pipe.execute()
        except (redis.RedisError, OSError) as error:
            raise SinkDown(str(error)) from error

    def beat(self, heartbeat: Heartbeat) -> None:
        try:
            self._redis.xadd(
                NODE_STREAM, {"beat": heartbeat.model_dump_json()}, maxlen=NODE_STREAM_ENTRIES, approximate=True
            )
        except (redis.RedisError, OSError) as error:
            raise SinkDown(str(error)) from error

    def close(self) -> None:
        self._redis.close()


class MemorySink:
    """Keeps everything in lists. While `down` is set, it refuses like a broker that is away."""

    def __init__(self) -> None:
        self.down = threading.Event()
        self.batches: list[list[Envelope]] = []
        self.beats: list[Heartbeat] = []

    @property
    def envelopes(self) -> list[Envelope]:
        """All that was shipped, in the order of arrival."""
        return [envelope for batch in list(self.batches) for envelope in batch]

    def ship(self, envelopes: list[Envelope]) -> None:
        self._refuse_when_down()
        self.batches.append(list(envelopes))

    def beat(self, heartbeat: Heartbeat) -> None:
        self._refuse_when_down()
        self.beats.append(heartbeat)

    def _refuse_when_down(self) -> None:
        if self.down.is_set():
            raise SinkDown("The sink is down.")
