"""One streaming request to an engine: when its first and its last token came, or what went wrong.

Knows nothing of how many are asked at a time, nor of what is made of the times.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from workers.contract.order import LaunchTarget
from workers.runtimes.load_test.prompts import Messages

CONNECT_S = 5.0
GONE = {"engine_stopping": "it is being stopped", "engine_failed": "its engine failed"}
"""Codes of an engine that takes nothing more, and what they mean."""


@dataclass(frozen=True)
class Answer:
    """A whole one. Times are of one monotonic clock, seconds. `first` is the first text, or the end where none came."""

    sent: float
    first: float
    last: float
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Error:
    """No whole answer. `kind`: unreachable, timeout, broken (off within), full (no place in the queue), stopping,
    unauthorized, invalid (refused for what it asks) or failed. `code` is the engine's own, where it gave one."""

    kind: str
    message: str
    code: str = ""


class Asker:
    """Asks one engine. Close it at the end."""

    def __init__(self, target: LaunchTarget, token: str, max_tokens: int, timeout_s: float) -> None:
        self._target, self._max_tokens, self._timeout_s = target, max_tokens, timeout_s
        # No proxy of the environment and no redirect: the token is for this address alone.
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=3),
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(self, messages: Messages) -> Answer | Error:
        """One request to its end."""
        body = {"model": self._target.model, "messages": messages, "max_tokens": self._max_tokens, "stream": True}
        sent = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._asked(body, sent)
        except (TimeoutError, httpx.TimeoutException) as error:
            if isinstance(error, httpx.ConnectTimeout):
                return Error("unreachable", f"No connection within {CONNECT_S:g} s.")
            return Error("timeout", f"No whole answer within {self._timeout_s:g} s.")
        except httpx.ConnectError as error:
            return Error("unreachable", f"No connection ({error}).")
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return Error("broken", f"The answer broke off ({type(error).__name__}: {error}).")

    async def gone(self) -> str:
        """Why the engine answers no more; '' where it says that it is well."""
        try:
            answer = await self._client.get(f"{self._target.url}/health", timeout=CONNECT_S)
        except (httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            return ""  # busy
        except httpx.HTTPError as error:
            return f"nothing answers at {self._target.url} ({type(error).__name__})"
        return "" if answer.status_code == 200 else f"its health is told as {answer.status_code}"

    async def _asked(self, body: dict[str, Any], sent: float) -> Answer | Error:
        url = f"{self._target.url}/v1/chat/completions"
        async with self._client.stream("POST", url, json=body) as response:
            if response.status_code != 200:
                return _refusal(response.status_code, await response.aread())
            return await _read(response, sent)


async def _read(response: httpx.Response, sent: float) -> Answer | Error:
    """The stream to its end. The finish reason comes with the last token; after it the engine tells how many there
    were, without which each piece of text counts as one."""
    first = last = None
    ended, pieces = False, 0
    usage: dict[str, int] = {}
    async for line in response.aiter_lines():
        given = line.removeprefix("data:").strip()
        if not line.startswith("data:") or given == "[DONE]":
            continue
        chunk = json.loads(given)
        if "error" in chunk:
            return Error("broken", str(chunk["error"].get("message", given)))
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            said = bool(choice["delta"].get("content"))
            if (said or choice.get("finish_reason")) and not ended:
                last = time.perf_counter()
                first = first or last
            pieces += said
            ended = ended or bool(choice.get("finish_reason"))
    if first is None or last is None or not ended:
        return Error("broken", "The stream ended before the answer did.")
    return Answer(sent, first, last, usage.get("prompt_tokens", 0), usage.get("completion_tokens", pieces))


def _refusal(status: int, body: bytes) -> Error:
    """What a status other than 200 says, in OpenAI's error shape or in another."""
    try:
        said = json.loads(body)["error"]
        message, code = str(said["message"]), str(said.get("code") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = body[:200].decode(errors="replace"), ""
    if code in GONE:
        return Error("stopping" if code == "engine_stopping" else "failed", message, code)
    kinds = {429: "full", 401: "unauthorized", 403: "unauthorized"}
    return Error(kinds.get(status, "invalid" if status < 500 else "failed"), message, code)
