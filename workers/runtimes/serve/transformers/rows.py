"""One answer being made: its tokens, what of them the model has read, and the text said so far.

Also keeps the slots of those that run without gaps. Knows nothing of models.
"""

from collections.abc import Callable
from typing import Any

from workers.runtimes.serve.engine import Likely, Made, Piece, Stream
from workers.runtimes.serve.text import Unfolding
from workers.runtimes.serve.transformers.choosing import Chosen, Drawing
from workers.runtimes.serve.transformers.grammar import Grammar


class Row:
    """`ends`: tokens that end an answer. `grammar`: what it is held to."""

    def __init__(self, stream: Stream, tokenizer: Any, ends: frozenset[int], grammar: Grammar | None = None) -> None:
        ask = stream.ask
        self.stream = stream
        self.tokens = list(ask.prompt)
        self.read = 0
        """Tokens whose keys are held."""
        self.slot = -1
        self.over = False
        self.drawing, self.grammar = Drawing(ask), grammar
        self._made = 0
        self._pending: list[Made] = []
        self._ends, self._tokenizer = ends, tokenizer
        self._text = Unfolding(lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)), ask.stop)

    @property
    def reading_prompt(self) -> bool:
        return self.read < len(self.stream.ask.prompt)

    def add(self, chosen: Chosen) -> Piece | None:
        """Take in the next token. The piece to say, if there is one."""
        ask = self.stream.ask
        self._made += 1
        self.tokens.append(chosen.token)
        if self.grammar is not None:
            self.grammar.took(chosen.token)
        if ask.logprobs is not None:
            self._pending.append(self._as_made(chosen))
        text = self._text.add(chosen.token)
        reason = None
        if chosen.token in self._ends or self._text.stopped:
            reason = "stop"
        elif self._made >= ask.max_tokens:
            reason = "length"
        if reason:
            self.over = True
            text += self._text.finish()
            reason = "stop" if self._text.stopped else reason
        elif not text:
            return None
        made, self._pending = tuple(self._pending), []
        return Piece(text, self._made, reason, made)

    def _as_made(self, chosen: Chosen) -> Made:
        top = tuple(Likely(self._spelt(token), logprob) for token, logprob in chosen.top)
        return Made(Likely(self._spelt(chosen.token), chosen.logprob), top)

    def _spelt(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))


def compact(rows: list[Row], move: Callable[[int, int, int], None]) -> list[Row]:
    """The rows in slots 0, 1, 2 …, as `move(source, target, tokens)` lays them.

    Rows that read their prompt come after those that speak, in `rows` and in slots, and do so again.
    """
    speaking = [row for row in rows if not row.reading_prompt]
    reading = rows[len(speaking) :]
    gaps = sorted(set(range(len(speaking))) - {row.slot for row in speaking})
    beyond = [row for row in speaking if row.slot >= len(speaking)]
    targets = [*zip(beyond, gaps, strict=True), *zip(reading, range(len(speaking), len(rows)), strict=True)]
    for row, slot in targets:
        if row.slot != slot:
            move(row.slot, slot, row.read)
            row.slot = slot
    return sorted(rows, key=lambda row: row.slot)
