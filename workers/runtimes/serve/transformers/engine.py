"""Many answers at a time from one transformers model: answers join and leave between steps, each with settings and a
seed of its own.

One thread makes all steps. Knows nothing of HTTP, nor of how a step or a choice is made.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from workers.runtimes.serve.engine import Ask, Broken, Piece, Refused, Stream
from workers.runtimes.serve.threaded import Threaded
from workers.runtimes.serve.transformers.beginnings import Beginnings
from workers.runtimes.serve.transformers.choosing import choose
from workers.runtimes.serve.transformers.forward import Forward, Reading
from workers.runtimes.serve.transformers.grammar import Grammars
from workers.runtimes.serve.transformers.rows import Row, compact

READ_AT_ONCE = 512
"""Tokens of prompts read in one step: answers under way wait no longer than that for those that join."""

Said = list[tuple[Stream, Piece | Exception]]


class TransformersEngine(Threaded):
    """`most` answers at a time, `queue` more wait; `lacks` says what the model can't do."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        forward: Forward,
        *,
        context_length: int,
        most: int,
        queue: int,
        lacks: dict[str, str] | None = None,
    ) -> None:
        super().__init__(tokenizer)
        self.context_length, self.most, self.lacks = context_length, most, lacks or {}
        self._model, self._forward, self._queue = model, forward, queue
        self._grammars: Grammars | None = None
        ends = model.generation_config.eos_token_id
        self._ends = frozenset(end for end in (ends if isinstance(ends, list) else [ends]) if end is not None)
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self._beginnings = Beginnings()
        self._asides: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._thread.start()

    def stream(self, ask: Ask) -> Stream:
        grammar = self._held_to().of(ask.schema) if ask.schema is not None else None
        row = Row(Stream(ask), self._tokenizer, self._ends, grammar)
        with self._changed:
            self._refuse_if_over()
            if len(self._rows) + len(self._waiting) >= self.most + self._queue:
                raise Refused(
                    f"{len(self._rows)} answers are being made and {len(self._waiting)} wait, which is all that this "
                    "model's queue holds; try again shortly.",
                    "full",
                )
            self._waiting.append(row)
            self._changed.notify()
        return row.stream

    def problem_of_schema(self, schema: str) -> str:
        return self._held_to().problem(schema)

    async def embed(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        """Last hidden states, averaged over the tokens of each prompt."""
        done: Future[list[list[float]]] = Future()
        with self._changed:
            self._refuse_if_over()
            self._asides.append((lambda: [self._embedded(prompt) for prompt in prompts], done))
            self._changed.notify()
        return await asyncio.wrap_future(done)

    def figures(self) -> dict[str, float]:
        with self._changed:
            held = sum(len(row.tokens) for row in self._rows)
            return {
                "running": len(self._rows),
                "queue_depth": len(self._waiting),
                "kv_cache_used": held / (self.most * self.context_length),
            }

    @property
    def idle(self) -> bool:
        with self._changed:
            return not (self._rows or self._waiting or self._asides)

    def _held_to(self) -> Grammars:
        if self._grammars is None:
            self._grammars = Grammars(self._tokenizer, self._model.config.get_text_config().vocab_size)
        return self._grammars

    def _work(self) -> None:
        with torch.inference_mode():
            while self._next():
                self._step()

    def _give_up(self, why: str) -> list[Stream]:
        rows, self._rows, self._waiting = [*self._rows, *self._waiting], [], deque()
        for _, done in self._asides:
            done.set_exception(Broken(why))
        return [row.stream for row in rows]

    def _next(self) -> bool:
        """Wait for work and take it in; False when there is to be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._rows or self._asides or self._closed)
            if self._closed:
                return False
            asides, self._asides = self._asides, deque()
            self._waiting = deque(row for row in self._waiting if not row.stream.left)
            self._close_up(lambda row: row.stream.left)
            while self._waiting and len(self._rows) < self.most and self._take_in(self._waiting[0]):
                self._waiting.popleft()
        for work, done in asides:
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)
        return True

    def _step(self) -> None:
        """One token for each answer whose prompt is read, and some more of the prompts."""
        room, readings, speaking = READ_AT_ONCE, [], []
        for row in self._rows:
            tokens = row.tokens[row.read : row.read + (room if row.reading_prompt else 1)]
            if not tokens:
                continue
            room -= len(tokens) if row.reading_prompt else 0
            readings.append(Reading(row.slot, row.read, tokens))
            row.read += len(tokens)
            speaking.append(row if row.read == len(row.tokens) else None)
        if not readings:
            return
        scores = self._forward(readings)
        places = [at for at, row in enumerate(speaking) if row is not None]
        rows = [row for row in speaking if row is not None]
        if not rows:
            return
        allowed = [row.grammar.allowed() if row.grammar else None for row in rows]
        chosen = choose(scores[places], [row.drawing for row in rows], allowed)
        said: Said = []
        for row, choice in zip(rows, chosen, strict=True):
            piece = row.add(choice)
            if piece is not None:
                said.append((row.stream, piece))
        with self._changed:
            self._close_up(lambda row: row.over)
        Stream.hand_over(said)

    def _take_in(self, row: Row) -> bool:
        """Give it a slot, and what another holds of its prompt; False where that is worth another step's wait."""
        if self._forward.keeps:
            found = self._beginnings.find(row.tokens, self._rows)
            if found.soon:
                return False
            row.read = found.tokens
        row.slot = len(self._rows)
        if row.read and found.slot != row.slot:
            self._forward.move(found.slot, row.slot, row.read)
        self._beginnings.overwritten(row.slot)
        self._rows.append(row)
        return True

    def _close_up(self, gone: Callable[[Row], bool]) -> None:
        """Those that are gone leave what they read; the others have the first slots."""
        for row in self._rows:
            if gone(row):
                self._beginnings.leave(row)
        self._rows = compact([row for row in self._rows if not gone(row)], self._move)

    def _move(self, source: int, target: int, tokens: int) -> None:
        self._beginnings.overwritten(target)
        self._forward.move(source, target, tokens)

    def _embedded(self, prompt: list[int]) -> list[float]:
        decoder = self._model.get_decoder()
        states = decoder(input_ids=torch.tensor([prompt], device=self._model.device), use_cache=False)
        mean: list[float] = states.last_hidden_state[0].float().mean(0).tolist()
        return mean
