"""Real HTTP servers for tests, each in a thread: any ASGI application, and a small model server to launch against."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """`app` at the URL this gives, until the block ends."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


class FakeModel:
    """Answers /v1/chat/completions. What it does is the last message: hello, wait, break, endless, think, refuse,
    full, garbage."""

    def __init__(self) -> None:
        self.authorization = ""
        self.body: dict[str, Any] = {}
        self.path = ""
        self.asked = 0
        self.go_on = threading.Event()
        self.left = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.authorization = dict(scope["headers"]).get(b"authorization", b"").decode()
        content, more = b"", True
        while more:
            message = await receive()
            content, more = content + message.get("body", b""), message.get("more_body", False)
        self.body, self.path, self.asked = json.loads(content), scope["path"], self.asked + 1
        wish = self.body["messages"][-1]["content"] if "messages" in self.body else "hello"
        if wish == "refuse":
            error = {"error": {"message": "max_tokens: 9 is too much.", "type": "invalid_request_error"}}
            return await self._whole(send, 400, json.dumps(error).encode())
        if wish == "think":
            assert (await receive())["type"] == "http.disconnect"
            return self.left.set()
        if wish == "full":
            full = {"error": {"message": "Full.", "type": "rate_limit_error", "param": None, "code": "queue_full"}}
            return await self._whole(send, 429, json.dumps(full).encode(), (b"retry-after", b"7"))
        if wish == "stranger":
            return await self._whole(send, 401, b"{}")
        if wish == "garbage":
            return await self._whole(send, 200, b"<html>")
        if not self.body.get("stream"):
            return await self._whole(send, 200, json.dumps({"choices": [{"message": {"content": "Hi."}}]}).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await self._event(send, {"choices": [{"delta": {"content": "one"}}]})
        if wish == "wait":
            await asyncio.to_thread(self.go_on.wait, 10)
        if wish == "break":
            raise ConnectionAbortedError
        if wish == "endless":
            gone = asyncio.ensure_future(receive())
            while not gone.done():
                await self._event(send, {"choices": [{"delta": {"content": "more"}}]})
                await asyncio.sleep(0.02)
            self.left.set()
            return None
        await self._event(send, {"choices": [{"delta": {"content": "two"}}]})
        return await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _whole(self, send: Any, status: int, content: bytes, *headers: tuple[bytes, bytes]) -> None:
        headers = ((b"content-type", b"text/plain"), *headers)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _event(self, send: Any, value: dict[str, Any]) -> None:
        await send({"type": "http.response.body", "body": f"data: {json.dumps(value)}\n\n".encode(), "more_body": True})
