"""Bodies over the limit never reach the application."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from portal.body_limit import BodyLimit


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def pieces(size: int) -> AsyncIterator[bytes]:
    """A body without a declared length."""
    for _ in range(size // 10):
        yield b"x" * 10


def post(size: int, *, declared: bool) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=BodyLimit(echo, 100))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/", content=b"x" * size if declared else pieces(size))

    return asyncio.run(run())


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_answered_with_413_and_a_sentence(declared: bool) -> None:
    assert post(100, declared=declared).text == "100"
    answer = post(110, declared=declared)
    assert answer.status_code == 413
    assert "at most 100 bytes" in answer.json()["errors"][0]["message"]


def test_an_absurd_length_is_refused() -> None:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=BodyLimit(echo, 100))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/", headers={"content-length": "9" * 5000})

    assert asyncio.run(run()).status_code == 413
