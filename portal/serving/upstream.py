"""Sends a request to one of a model's endpoints and gives its answer, of which the beginning has come.

One pool of connections for each event loop, which ends with its process. Knows nothing of what is asked, nor by whom.
"""

import asyncio
import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import httpx

from portal.jobs.tokens import serve_token
from portal.serving import replicas
from portal.serving.holding import Hold
from portal.serving.models import Endpoint

log = logging.getLogger(__name__)

# Seconds. A model on a slow device may think for minutes before its first token.
TIMEOUT = httpx.Timeout(connect=5, read=600, write=30, pool=5)
# The servers close a connection that nobody used for 5 s; one that is about to be closed is not used any more.
POOL = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=3)

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()


class Unreachable(Exception):
    """None of them answered; the last that was asked, and what came of it."""

    def __init__(self, endpoint: Endpoint, error: httpx.HTTPError) -> None:
        super().__init__(str(error))
        self.endpoint, self.error = endpoint, error


async def send(hold: Hold, endpoints: Sequence[Endpoint], path: str, body: bytes) -> tuple[Endpoint, httpx.Response]:
    """Ask the one with the least to do; where it can't be reached or breaks off before it says anything, the next.

    The answer is closed with `hold`. Raises Unreachable.
    """
    failed: Unreachable | None = None
    for endpoint in replicas.by_load(endpoints):
        await hold.turn_to(endpoint)
        try:
            hold.response = await _send(endpoint, path, body)
        except httpx.HTTPError as error:
            failed = Unreachable(endpoint, error)
            if isinstance(error, httpx.ReadTimeout):  # it may be at work on it
                break
            replicas.not_reached(endpoint)
            log.warning("%s can't be reached: %r", endpoint, error)
        else:
            replicas.reached(endpoint)
            return endpoint, hold.response
    assert failed is not None, "there was nobody to ask"
    raise failed


async def _send(endpoint: Endpoint, path: str, body: bytes) -> httpx.Response:
    attempt, client = endpoint.attempt, _client()
    request = client.build_request(
        "POST",
        f"{endpoint.url}{path}",
        content=body,
        headers={
            "Authorization": f"Bearer {serve_token(attempt.job_id, attempt.number)}",
            "Content-Type": "application/json",
        },
    )
    return await client.send(request, stream=True)


def _client() -> httpx.AsyncClient:
    loop = asyncio.get_running_loop()
    client = _clients.get(loop)
    if client is None:
        # No proxy of the environment, no redirect: the URL was checked against the node and nothing else is called.
        client = _clients[loop] = httpx.AsyncClient(
            timeout=TIMEOUT, limits=POOL, trust_env=False, follow_redirects=False
        )
    return client


def why(error: httpx.HTTPError) -> str:
    """What became of a request, as the rest of a sentence."""
    if isinstance(error, httpx.ReadTimeout):
        return f"gave no answer within {TIMEOUT.read:.0f} s"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "can't be reached"
    return "broke off its answer"
