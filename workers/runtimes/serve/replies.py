"""The bodies of answers, whole or chunk by chunk, as OpenAI's API has them.

Knows nothing of requests, nor of how text comes.
"""

import base64
import struct
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.runtimes.serve.engine import Made


@dataclass
class Choice:
    """One answer, once it is over."""

    text: str = ""
    finish_reason: str = "stop"
    tokens: int = 0
    made: list[Made] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Of tools, where the model asks for them."""


class Reply:
    """What all bodies to one request have. `wants_logprobs`: they are named even where no token was made."""

    OBJECT, CHUNK, PREFIX = "", "", ""

    def __init__(self, model: str, prompt_tokens: int, wants_logprobs: bool) -> None:
        self._head = {"id": f"{self.PREFIX}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._prompt_tokens, self._wants_logprobs = prompt_tokens, wants_logprobs

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        made = sum(choice.tokens for choice in choices)
        bodies = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._head, "object": self.OBJECT, "choices": bodies, "usage": self._usage(made)}

    def first(self, index: int) -> dict[str, Any] | None:
        """The chunk before any text, where there is one."""
        return None

    def delta(self, index: int, text: str, made: Sequence[Made]) -> dict[str, Any]:
        return self._chunk(index, self._text(text), made)

    def calls(self, index: int, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The chunk with the tools that are asked for."""
        numbered = [{"index": at, **call} for at, call in enumerate(calls)]
        return self._chunk(index, {"delta": {"tool_calls": numbered}}, ())

    def last(self, index: int, finish_reason: str) -> dict[str, Any]:
        return self._chunk(index, self._text(""), (), finish_reason)

    def usage(self, made: int) -> dict[str, Any]:
        """The chunk after the last, with no choice in it."""
        return {**self._head, "object": self.CHUNK, "choices": [], "usage": self._usage(made)}

    def _text(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        raise NotImplementedError

    def _logprobs(self, made: Sequence[Made]) -> dict[str, Any]:
        raise NotImplementedError

    def _chunk(
        self, index: int, content: dict[str, Any], made: Sequence[Made], finish_reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, **content, "finish_reason": finish_reason}
        if self._wants_logprobs:
            choice["logprobs"] = self._logprobs(made)
        return {**self._head, "object": self.CHUNK, "choices": [choice]}

    def _usage(self, made: int) -> dict[str, int]:
        prompt = self._prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


class ChatReply(Reply):
    """To a conversation."""

    OBJECT, CHUNK, PREFIX = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def first(self, index: int) -> dict[str, Any]:
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, ())

    def _text(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text}
        if choice.calls:
            message |= {"content": choice.text or None, "tool_calls": choice.calls}
        body: dict[str, Any] = {"index": index, "message": message, "finish_reason": choice.finish_reason}
        return body | ({"logprobs": self._logprobs(choice.made)} if self._wants_logprobs else {})

    def _logprobs(self, made: Sequence[Made]) -> dict[str, Any]:
        def body(token: str, logprob: float) -> dict[str, Any]:
            return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

        return {
            "content": [
                body(each.chosen.token, each.chosen.logprob)
                | {"top_logprobs": [body(other.token, other.logprob) for other in each.top]}
                for each in made
            ]
        }


class TextReply(Reply):
    """To a text."""

    OBJECT, CHUNK, PREFIX = "text_completion", "text_completion", "cmpl"

    def _text(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        logprobs = self._logprobs(choice.made) if self._wants_logprobs else None
        return {"index": index, "text": choice.text, "finish_reason": choice.finish_reason, "logprobs": logprobs}

    def _logprobs(self, made: Sequence[Made]) -> dict[str, Any]:
        return {
            "tokens": [each.chosen.token for each in made],
            "token_logprobs": [each.chosen.logprob for each in made],
            "top_logprobs": [{other.token: other.logprob for other in each.top} for each in made],
        }


def embeddings(model: str, vectors: Sequence[Sequence[float]], tokens: int, packed: bool) -> dict[str, Any]:
    """`packed`: each vector as little-endian fp32 in base64, which OpenAI's own client asks for."""
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
