"""From conversations and text to tokens, by the model's own tokenizer and template: alike for every engine.

Knows nothing of how text is made.
"""

from collections.abc import Sequence
from typing import Any

from workers.runtimes.chat import encode, render, takes_tools


class Words:
    """What an engine says of its tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def prompt(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The tokens of a conversation. Raises RunFailed when the model's template refuses it."""
        return encode(self._tokenizer, render(self._tokenizer, messages, answer_next=True, tools=tools))

    def tokens(self, text: str) -> list[int]:
        """The tokens of plain text."""
        return list(self._tokenizer(text)["input_ids"])


def lacking(tokenizer: Any) -> dict[str, str]:
    """What no engine can do with it (Engine.lacks)."""
    if takes_tools(tokenizer):
        return {}
    return {"tools": "this model's chat template knows of no tools; leave them out."}
