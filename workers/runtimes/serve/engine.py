"""One model that answers one prompt at a time, in a thread of its own, word by word.

Knows nothing of HTTP: it is handed tokens and settings, and gives pieces of text.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from workers.runtimes.chat import Message, encode, render
from workers.runtimes.serve.text import Unfolding


@dataclass(frozen=True)
class Ask:
    """One prompt and how to answer it. `temperature` 0 is greedy; `max_tokens` counts the answer alone."""

    prompt: list[int]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Some of an answer. `tokens` is how many tokens were made so far; the last piece has a finish reason:
    'stop' (the model or a stop string ended it) or 'length'."""

    text: str
    tokens: int
    finish_reason: str | None = None


class Engine:
    """Answers in order of arrival."""

    def __init__(self, model: Any, tokenizer: Any, context_length: int) -> None:
        self.context_length = context_length
        self.longest = 0
        """Tokens of the longest prompt and answer so far."""
        self._model, self._tokenizer = model, tokenizer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")
        self._closing = threading.Event()

    def tokens(self, messages: list[Message]) -> list[int]:
        """The prompt of a conversation. Raises RunFailed when the model's template refuses it."""
        return encode(self._tokenizer, render(self._tokenizer, messages, answer_next=True))

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """Pieces as they come, the last one with a finish reason. Left early, the model stops at its next token."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        left = threading.Event()

        def say(piece: Piece) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        speaking = loop.run_in_executor(self._thread, self._speak, ask, say, left)
        speaking.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await speaking
        finally:
            left.set()

    def close(self) -> None:
        """Stop what is being said, at its next token, and refuse what waits."""
        self._closing.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _speak(self, ask: Ask, say: Callable[[Piece], None], left: threading.Event) -> None:
        if left.is_set() or self._closing.is_set():
            return
        speech = _Speech(self._tokenizer, ask, say)
        prompt = torch.tensor([ask.prompt], device=self._model.device)
        torch.manual_seed(ask.seed)
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if ask.temperature > 0:
            sampling = {"do_sample": True, "temperature": ask.temperature, "top_p": ask.top_p, "top_k": 0}
        produced = self._model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=ask.max_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
            streamer=speech,
            stopping_criteria=[_Until(lambda: speech.stopped or left.is_set() or self._closing.is_set())],
            **sampling,
        )
        self.longest = max(self.longest, int(produced.shape[1]))
        ended = speech.stopped or int(produced[0, -1]) in self._end_tokens()
        cut = len(ask.prompt) + ask.max_tokens <= produced.shape[1]
        say(Piece(speech.rest(), speech.count, "length" if cut and not ended else "stop"))

    def _end_tokens(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends}


class _Speech(BaseStreamer):  # type: ignore[misc]  # the library is untyped
    """Turns the tokens `generate` hands over into pieces."""

    def __init__(self, tokenizer: Any, ask: Ask, say: Callable[[Piece], None]) -> None:
        self._text = Unfolding(lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)), ask.stop)
        self._say = say
        self._prompt_seen = False
        self.count = 0

    @property
    def stopped(self) -> bool:
        return self._text.stopped

    def put(self, value: Any) -> None:
        if not self._prompt_seen:  # generate hands over the prompt first
            self._prompt_seen = True
            return
        for token in value.flatten().tolist():
            self.count += 1
            if text := self._text.add(token):
                self._say(Piece(text, self.count))

    def end(self) -> None:
        """Called by generate; what was held back goes out with the last piece."""

    def rest(self) -> str:
        return self._text.finish()


class _Until(StoppingCriteria):  # type: ignore[misc]  # the library is untyped
    """Stops `generate` as soon as `done()`."""

    def __init__(self, done: Callable[[], bool]) -> None:
        self._done = done

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._done(), device=input_ids.device, dtype=torch.bool)
