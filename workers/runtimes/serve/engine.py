"""What every serving engine is: it takes tokens and settings, and gives pieces of text as they come.

Knows nothing of HTTP, nor of how any one engine makes text.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Ask:
    """One prompt and how to answer it. `temperature` 0 is greedy; `max_tokens` counts the answer alone; `logprobs` is
    how many of the likeliest tokens to name beside each one made, None for none at all; `schema` is the JSON schema
    that the answer has to follow."""

    prompt: list[int]
    max_tokens: int
    temperature: float = 0
    top_p: float = 1
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    schema: str | None = None


@dataclass(frozen=True)
class Likely:
    """A token as text, and the natural logarithm of how likely the model held it to be."""

    token: str
    logprob: float


@dataclass(frozen=True)
class Made:
    """A token that was made, and those that were likeliest in its place."""

    chosen: Likely
    top: tuple[Likely, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Some of an answer. `tokens` is how many tokens were made so far; the last piece has a finish reason:
    'stop' (the model or a stop string ended it) or 'length'."""

    text: str
    tokens: int
    finish_reason: str | None = None
    made: tuple[Made, ...] = ()


class Refused(Exception):
    """No answer is begun. `why`: 'full' (too many wait), 'stopping' or 'failed'; another try may go well."""

    def __init__(self, message: str, why: Literal["full", "stopping", "failed"]) -> None:
        super().__init__(message)
        self.message, self.why = message, why


class Broken(Exception):
    """An answer that was begun can't be ended; the message is for who waits for it."""


class Stream:
    """The pieces of one answer, read on the event loop that it was made on and filled from any thread."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.asked_at = time.monotonic()
        """Before the engine begins it: it may have its first text by the time somebody reads."""
        self.left = False
        """Nobody reads on: the engine drops the answer at its next step."""
        self.on_left: Callable[[], object] | None = None
        """Called then, for an engine that doesn't look."""
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()

    async def pieces(self) -> AsyncIterator[Piece]:
        """As they come, the last one with a finish reason. Raises Broken where the answer breaks off."""
        try:
            while True:
                piece = await self._pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.finish_reason:
                    return
        finally:
            self.cancel()

    def cancel(self) -> None:
        self.left = True
        if self.on_left is not None:
            self.on_left()

    @staticmethod
    def hand_over(given: Sequence[tuple["Stream", Piece | Exception]]) -> None:
        """Give each stream its piece, all in one call of the event loop."""
        if given:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                given[0][0]._loop.call_soon_threadsafe(_put, given)


def _put(given: Iterable[tuple[Stream, Piece | Exception]]) -> None:
    for stream, piece in given:
        stream._pieces.put_nowait(piece)


class Engine(Protocol):
    """A model that is loaded. What is called from the event loop never blocks."""

    context_length: int
    """Tokens of a prompt and its answer together, at most."""
    most: int
    """Answers that are made at a time, at most."""
    lacks: dict[str, str]
    """Parameter of a request → why this engine has none of it: 'logprobs', 'embeddings', 'tools', 'response_format'."""

    def prompt(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The tokens of a conversation. Raises RunFailed when the model's template refuses it."""

    def tokens(self, text: str) -> list[int]:
        """The tokens of plain text."""

    def stream(self, ask: Ask) -> Stream:
        """Begin to answer, or wait for a place. Raises Refused at once where there is none to wait for."""

    def problem_of_schema(self, schema: str) -> str:
        """Why an answer can't be held to a JSON schema; '' where it can."""

    async def embed(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        """One vector for each prompt."""

    def figures(self) -> dict[str, float]:
        """How it goes now: running, queue_depth, kv_cache_used (a share of 1)."""

    def drain(self) -> None:
        """Refuse what is new; go on with what was begun."""

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""

    @property
    def failure(self) -> Exception | None:
        """What it answers no more for; None while it does."""

    def close(self) -> None:
        """Break off what still runs, with a word to who waits, and free what is held."""
