"""An engine that is a server of its own: answers are asked of its OpenAI-compatible API, by tokens, and passed on.

Knows neither which server it is nor how it was started.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from workers.runtimes.serve.engine import Ask, Broken, Likely, Made, Piece, Refused, Stream
from workers.runtimes.serve.words import Words, lacking

TIMEOUT = httpx.Timeout(connect=5, read=600, write=30, pool=None)


class RelayEngine(Words):
    """`died`: why the server answers no more, None while it does. `stop` ends it."""

    def __init__(
        self,
        url: str,
        model_name: str,
        tokenizer: Any,
        *,
        context_length: int,
        most: int,
        queue: int,
        died: Callable[[], Exception | None],
        stop: Callable[[], None],
        api_key: str = "",
    ) -> None:
        super().__init__(tokenizer)
        self.context_length, self.most = context_length, most
        self.lacks = lacking(tokenizer) | {
            "embeddings": "this engine makes text only; launch the model with the engine transformers."
        }
        self._url, self._name, self._queue = url, model_name, queue
        self._died, self._stop, self._api_key = died, stop, api_key
        self._tasks: dict[asyncio.Task[None], Stream] = {}
        self._draining = False
        self._client: httpx.AsyncClient | None = None

    def problem_of_schema(self, schema: str) -> str:
        return ""  # the server says so itself

    def stream(self, ask: Ask) -> Stream:
        if self.failure:
            raise Refused(f"The model failed ({self.failure}).", "failed")
        if self._draining:
            raise Refused("This launch is stopping and begins no new answer.", "stopping")
        if len(self._tasks) >= self.most + self._queue:
            raise Refused(f"{len(self._tasks)} answers are being made or wait; try again shortly.", "full")
        stream = Stream(ask)
        task = asyncio.create_task(self._follow(stream))
        self._tasks[task] = stream
        task.add_done_callback(self._tasks.pop)
        stream.on_left = task.cancel
        return stream

    async def embed(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        raise Broken(self.lacks["embeddings"])

    def figures(self) -> dict[str, float]:
        begun = len(self._tasks)
        return {"running": min(begun, self.most), "queue_depth": max(0, begun - self.most)}

    def drain(self) -> None:
        self._draining = True

    @property
    def idle(self) -> bool:
        return not self._tasks

    @property
    def failure(self) -> Exception | None:
        return self._died()

    def close(self) -> None:
        self._draining = True
        Stream.hand_over(
            [
                (stream, Broken("This launch was stopped before the answer's end."))
                for stream in list(self._tasks.values())
            ]
        )
        self._stop()

    async def _follow(self, stream: Stream) -> None:
        try:
            async for piece in self._asked(stream.ask):
                Stream.hand_over([(stream, piece)])
                if piece.finish_reason:
                    return
            raise Broken("The model's server ended the answer without a finish reason.")
        except (httpx.HTTPError, ValueError, KeyError) as error:
            Stream.hand_over([(stream, Broken(f"The model's server broke off ({type(error).__name__}: {error})."))])
        except Broken as error:
            Stream.hand_over([(stream, error)])

    async def _asked(self, ask: Ask) -> Any:
        self._client = self._client or httpx.AsyncClient(timeout=TIMEOUT, trust_env=False)
        headers = {"Authorization": f"Bearer {self._api_key}"}
        tokens = 0
        async with self._client.stream(
            "POST", f"{self._url}/v1/completions", json=body_of(ask, self._name), headers=headers
        ) as answer:
            if answer.status_code != 200:
                said = (await answer.aread()).decode(errors="replace")
                raise Broken(f"The model's server refused ({answer.status_code}): {said[:300]}")
            async for line in answer.aiter_lines():
                given = line.removeprefix("data: ")
                if not line.startswith("data: ") or given == "[DONE]":
                    continue
                chunk = json.loads(given)
                if "error" in chunk:
                    raise Broken(f"The model's server broke off: {chunk['error'].get('message', given)}")
                usage = chunk.get("usage") or {}
                tokens = usage.get("completion_tokens", tokens)
                for choice in chunk["choices"]:
                    made = made_of(choice.get("logprobs"))
                    tokens = tokens if usage else tokens + (len(made) or bool(choice["text"]))
                    yield Piece(
                        choice["text"], tokens, choice["finish_reason"], made if ask.logprobs is not None else ()
                    )


def body_of(ask: Ask, model_name: str) -> dict[str, Any]:
    """The request for /v1/completions. `continuous_usage_stats`, and `response_format` there, are vLLM's own."""
    body: dict[str, Any] = {
        "model": model_name,
        "prompt": ask.prompt,
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "seed": ask.seed,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if ask.stop:
        body["stop"] = list(ask.stop)
    if ask.logprobs is not None:
        body["logprobs"] = ask.logprobs
    if ask.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": json.loads(ask.schema)},
        }
    return body


def made_of(logprobs: dict[str, Any] | None) -> tuple[Made, ...]:
    """Tokens of a chunk, as /v1/completions has them."""
    if not logprobs:
        return ()
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    return tuple(
        Made(Likely(token, logprob or 0.0), tuple(Likely(*each) for each in (top or {}).items()))
        for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    )
