"""Sends a request to one of a model's endpoints and gives its answer, of which the beginning has come.

One pool of connections for each event loop, which ends with its process. Knows nothing of what is asked, nor by whom.
"""

import asyncio
import logging
from collections.abc import Sequence

import aiohttp

from portal.jobs.tokens import serve_token
from portal.serving import replicas
from portal.serving.holding import Hold
from portal.serving.models import Endpoint

log = logging.getLogger(__name__)

# Seconds. A model on a slow device may think for minutes before its first token.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=600)
# The servers close a connection that nobody used for 5 s; one that is about to be closed is not used any more.
UNUSED_S = 3

_clients: dict[asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, asyncio.Task[None]]] = {}
"""Each with the task that closes it when its loop comes to its end."""


class Unreachable(Exception):
    """None of them answered; the last that was asked, and what came of it."""

    def __init__(self, endpoint: Endpoint, error: aiohttp.ClientError) -> None:
        super().__init__(str(error))
        self.endpoint, self.error = endpoint, error


async def send(
    hold: Hold, endpoints: Sequence[Endpoint], path: str, body: bytes
) -> tuple[Endpoint, aiohttp.ClientResponse]:
    """Ask the one with the least to do; where it can't be reached or breaks off before it says anything, the next.

    The answer is closed with `hold`. Raises Unreachable.
    """
    failed: Unreachable | None = None
    for endpoint in replicas.by_load(endpoints):
        await hold.turn_to(endpoint)
        try:
            hold.response = await _send(endpoint, path, body)
        except aiohttp.ClientError as error:
            failed = Unreachable(endpoint, error)
            if isinstance(error, aiohttp.SocketTimeoutError):  # it may be at work on it
                break
            replicas.not_reached(endpoint)
            log.warning("%s can't be reached: %r", endpoint, error)
        else:
            replicas.reached(endpoint)
            return endpoint, hold.response
    assert failed is not None, "there was nobody to ask"
    raise failed


async def _send(endpoint: Endpoint, path: str, body: bytes) -> aiohttp.ClientResponse:
    attempt = endpoint.attempt
    return await _client().post(
        f"{endpoint.url}{path}",
        data=body,
        headers={
            "Authorization": f"Bearer {serve_token(attempt.job_id, attempt.number)}",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
        },
        allow_redirects=False,  # the URL was checked against the node, and nothing else is called
    )


def _client() -> aiohttp.ClientSession:
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=UNUSED_S),
            timeout=TIMEOUT,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        _clients[loop] = client, loop.create_task(_close_at_the_end(client))
    return _clients[loop][0]


async def _close_at_the_end(client: aiohttp.ClientSession) -> None:
    """Until the loop, ending, cancels what still runs."""
    loop = asyncio.get_running_loop()
    try:
        await loop.create_future()
    finally:
        del _clients[loop]
        await client.close()


def why(error: aiohttp.ClientError) -> str:
    """What became of a request, as the rest of a sentence."""
    if isinstance(error, aiohttp.SocketTimeoutError):
        return f"gave no answer within {TIMEOUT.sock_read:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return "can't be reached"
    return "broke off its answer"
