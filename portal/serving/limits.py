"""How much a token may ask of launched models: requests a minute and at a time, counted in Redis for all processes.

While Redis is away, everybody is let through. Knows nothing of models or of HTTP.
"""

import asyncio
import logging
import secrets
import time
from typing import NamedTuple
from weakref import WeakKeyDictionary

import redis
from django.conf import settings
from redis.asyncio import Redis

from portal.accounts.credentials import Caller

log = logging.getLogger(__name__)

LEASE_S = 60
"""A request whose process died is counted for so long; one that goes on renews itself."""
TIMEOUT_S = 0.5
REST_S = 5.0
"""After Redis didn't answer, it isn't asked for so long."""

ENTER = """
local asking, bucket, member = KEYS[1], KEYS[2], ARGV[1]
local most, per_minute, lease = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
if most > 0 then
  redis.call('ZREMRANGEBYSCORE', asking, '-inf', now)
  if redis.call('ZCARD', asking) >= most then return {'at a time', '1'} end
end
if per_minute > 0 then
  local kept = redis.call('HMGET', bucket, 'left', 'at')
  local left, at = tonumber(kept[1]) or per_minute, tonumber(kept[2]) or now
  left = math.min(per_minute, left + (now - at) * per_minute / 60)
  if left < 1 then return {'a minute', tostring((1 - left) * 60 / per_minute)} end
  redis.call('HSET', bucket, 'left', tostring(left - 1), 'at', string.format('%.6f', now))
  redis.call('EXPIRE', bucket, 120)
end
if most > 0 then
  redis.call('ZADD', asking, now + lease, member)
  redis.call('EXPIRE', asking, lease)
end
return {'', '0'}
"""
"""One token bucket, which holds a minute's requests and fills evenly, and one set of requests under way."""

RENEW = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], 'XX', time[1] + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""


class Limits(NamedTuple):
    """What one caller may ask; 0: any number."""

    per_minute: int
    at_a_time: int


class Refusal(NamedTuple):
    """One request too many."""

    sentence: str
    retry_after_s: float


def limits_of(caller: Caller) -> Limits:
    """Its token's own, else those of all tokens; a browser's session has the latter."""
    token = caller.token
    per_minute = token.requests_per_minute if token else None
    at_a_time = token.concurrent_requests if token else None
    return Limits(
        settings.LIFTOFF_TOKEN_REQUESTS_PER_MINUTE if per_minute is None else per_minute,
        settings.LIFTOFF_TOKEN_CONCURRENT_REQUESTS if at_a_time is None else at_a_time,
    )


class Admission:
    """One request's place among those of its caller."""

    def __init__(self, caller: Caller) -> None:
        self._limits = limits_of(caller)
        name = f"{{token-{caller.token.pk}}}" if caller.token else f"{{user-{caller.user.pk}}}"
        self._asking, self._bucket = f"liftoff:asking:{name}", f"liftoff:rate:{name}"
        self._member = secrets.token_hex(8)

    async def enter(self) -> Refusal | None:
        """Take the place; None when it is taken."""
        if not any(self._limits) or not _redis.answers:
            return None
        per_minute, at_a_time = self._limits
        try:
            keys = (self._asking, self._bucket)
            word, seconds = await _redis.client().eval(ENTER, 2, *keys, self._member, at_a_time, per_minute, LEASE_S)
        except (redis.RedisError, OSError) as error:
            _redis.rest(error)
            return None
        if not word:
            return None
        most = at_a_time if word == "at a time" else per_minute
        return Refusal(f"This token may send {most} requests {word} to launched models; try again.", float(seconds))

    async def renew(self) -> None:
        """It still takes its place."""
        if self._limits.at_a_time and _redis.answers:
            try:
                await _redis.client().eval(RENEW, 1, self._asking, self._member, LEASE_S)
            except (redis.RedisError, OSError) as error:
                _redis.rest(error)

    async def leave(self) -> None:
        """Give the place up."""
        if self._limits.at_a_time and _redis.answers:
            try:
                await _redis.client().zrem(self._asking, self._member)
            except (redis.RedisError, OSError) as error:
                _redis.rest(error)


class _Connection:
    """A client for each event loop, and whether Redis is worth asking."""

    def __init__(self) -> None:
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[str, Redis]] = WeakKeyDictionary()
        self._rests_until = 0.0

    @property
    def answers(self) -> bool:
        return time.monotonic() >= self._rests_until

    def client(self) -> Redis:
        loop, url = asyncio.get_running_loop(), settings.REDIS_URL
        known = self._clients.get(loop)
        if known is None or known[0] != url:
            client = Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, decode_responses=True
            )
            known = self._clients[loop] = (url, client)
        return known[1]

    def rest(self, error: Exception) -> None:
        log.warning("tokens are not limited, for Redis can't be asked: %s", error)
        self._rests_until = time.monotonic() + REST_S


_redis = _Connection()
