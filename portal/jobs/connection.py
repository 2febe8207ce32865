"""The jobs app's connection to Redis, one a URL. Knows nothing of what is kept there."""

from functools import cache

import redis
from django.conf import settings

TIMEOUT_S = 5


def client() -> "redis.Redis":
    """A client that threads may share; a call raises redis.RedisError or OSError within TIMEOUT_S."""
    return _client(settings.REDIS_URL)


@cache
def _client(url: str) -> "redis.Redis":
    return redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, decode_responses=True)
