"""Which of the endpoints that may answer a request is asked: the one with the fewest requests under way.

Counted in each web process by itself: what others send is not seen, and among equals chance decides, so that several
processes don't all choose the same. Knows nothing of HTTP.
"""

import random
import time
from collections import Counter
from collections.abc import Iterable

from portal.serving.models import Endpoint

REST_S = 2.0
"""One that could not be reached comes last for so long."""

_under_way: Counter[int] = Counter()
_rests_until: dict[int, float] = {}


def by_load(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """The best to ask first."""
    now = time.monotonic()

    def order(endpoint: Endpoint) -> tuple[bool, int, float]:
        return _rests_until.get(endpoint.pk, 0.0) > now, _under_way[endpoint.pk], random.random()  # noqa: S311

    return sorted(endpoints, key=order)


def under_way(endpoint: Endpoint) -> int:
    """Requests that this process sent it and that have no end yet."""
    return _under_way[endpoint.pk]


def begin(endpoint: Endpoint) -> None:
    """One more."""
    _under_way[endpoint.pk] += 1


def end(endpoint: Endpoint) -> None:
    """One less."""
    _under_way[endpoint.pk] -= 1
    if _under_way[endpoint.pk] <= 0:
        del _under_way[endpoint.pk]


def not_reached(endpoint: Endpoint) -> None:
    """Let it rest."""
    _rests_until[endpoint.pk] = time.monotonic() + REST_S


def reached(endpoint: Endpoint) -> None:
    """It answered."""
    _rests_until.pop(endpoint.pk, None)
