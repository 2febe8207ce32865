"""Rows of preferences as tokens: a prompt, the answer that was chosen and the one that was rejected.

Knows nothing of trainers.
"""

import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.runtimes.base import invalid
from workers.runtimes.chat import Message, has_template, render

Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    def __len__(self) -> int:
        """Tokens of the longer sequence."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


def make_pair(row: Row, tokenizer: Any, context_length: int) -> Pair:
    """The row as tokens, either sequence at most `context_length` long: a long prompt loses its beginning, then a long
    answer its end. The prompt ends where the tokens of the two sequences part."""
    chosen, chosen_at = _tokens(row["prompt"], row["chosen"], tokenizer)
    rejected, rejected_at = _tokens(row["prompt"], row["rejected"], tokenizer)
    shared = len(os.path.commonprefix([chosen, rejected]))  # noqa: RUF071 - of tokens, as it does
    start = min(shared, chosen_at, rejected_at)
    if max(len(chosen), len(rejected)) == shared:
        raise invalid("its chosen and its rejected answer are the same to this model, so there is nothing to prefer.")
    longest = max(len(chosen), len(rejected))
    cut = max(0, min(longest - context_length, start - 1))
    kept = slice(start, cut + context_length)
    return Pair(chosen[cut:start], chosen[kept], rejected[kept])


def _tokens(prompt: str | list[Message], answer: str | list[Message], tokenizer: Any) -> tuple[list[int], int]:
    """Tokens up to the answer's last, and the place of its first."""
    end = tokenizer.eos_token or ""
    if isinstance(prompt, str) and isinstance(answer, str) and not has_template(tokenizer):
        asked, whole = prompt, prompt + answer + end
    else:
        turns, said = _turns("user", prompt), _turns("assistant", answer)
        if not has_template(tokenizer):
            said = [*said[:-1], {**said[-1], "content": said[-1]["content"] + end}]
        whole = render(tokenizer, [*turns, *said], answer_next=False)
        asked = os.path.commonprefix([whole, render(tokenizer, turns, answer_next=True)])  # noqa: RUF071 - characters
    if end and whole.rstrip().endswith(end):  # the model stops at its end token; it never writes what follows
        whole = whole.rstrip()
    encoded = tokenizer(
        whole, add_special_tokens=not has_template(tokenizer), return_offsets_mapping=True, verbose=False
    )
    places: Sequence[tuple[int, int]] = encoded["offset_mapping"]
    first = next((place for place, (start, stop) in enumerate(places) if start < stop > len(asked)), len(places))
    return list(encoded["input_ids"]), first


def _turns(role: str, said: str | list[Message]) -> list[Message]:
    return [{"role": role, "content": said}] if isinstance(said, str) else said
