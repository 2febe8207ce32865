"""Beginnings of prompts that some slot holds already: a system prompt, a conversation so far. They aren't read again.

What an answer leaves behind counts until its slot is needed. Knows nothing of models; slots are numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

from workers.runtimes.serve.transformers.rows import Row

LEAST = 16
"""A beginning of fewer tokens is sooner read than looked after."""
WORTH = 4
"""Nobody waits for a beginning of less than one part in so many of the prompt."""


class Found(NamedTuple):
    """`slot` holds the first `tokens` of a prompt; at 0 no slot does. `soon`: a slot will hold more of them once
    its own prompt is read, which is worth the wait."""

    slot: int
    tokens: int
    soon: bool


class Beginnings:
    """Of one engine's slots."""

    def __init__(self) -> None:
        self._left: dict[int, list[int]] = {}
        """Slot → the tokens that its last answer left in it."""

    def leave(self, row: Row) -> None:
        """The answer is over; its slot keeps what was read."""
        self._left[row.slot] = row.tokens[: row.read]

    def overwritten(self, slot: int) -> None:
        """What was left in it is gone."""
        self._left.pop(slot, None)

    def find(self, prompt: Sequence[int], rows: Sequence[Row]) -> Found:
        """The longest in the slots of `rows`, which run, and in what others left. The last token of a prompt is always
        read: what follows it is what is asked for."""
        held = [(row.slot, row.tokens, row.read) for row in rows]
        held += [(slot, tokens, len(tokens)) for slot, tokens in self._left.items()]
        slot, count, promised = -1, 0, 0
        for holder, tokens, read in held:
            alike = _alike(prompt, tokens)
            promised = max(promised, alike)
            if min(alike, read) > count:
                slot, count = holder, min(alike, read)
        soon = promised - count >= LEAST and (promised - count) * WORTH >= len(prompt)
        return Found(slot, count if count >= LEAST else 0, soon)


def _alike(prompt: Sequence[int], tokens: Sequence[int]) -> int:
    """With how many of the same tokens both begin, the prompt's last left out."""
    low, high = 0, min(len(prompt) - 1, len(tokens))
    if prompt[:LEAST] != tokens[:LEAST]:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if prompt[low:middle] == tokens[low:middle] else (low, middle - 1)
    return low
