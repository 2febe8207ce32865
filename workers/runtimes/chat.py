"""Turn messages into a prompt by the model's chat template, or plainly where it has none.

The one place where training and serving agree on a prompt. Knows nothing of either.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from jinja2 import TemplateError

from workers.runtimes.base import invalid

Message = dict[str, Any]


class ChatTokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    chat_template: Any

    def apply_chat_template(self, conversation: Sequence[Message], **options: Any) -> Any: ...


def has_template(tokenizer: ChatTokenizer) -> bool:
    return bool(tokenizer.chat_template)


def takes_tools(tokenizer: ChatTokenizer) -> bool:
    """Whether the template knows of tools that the assistant may call."""
    return "tools" in str(tokenizer.chat_template or "")


def render(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    answer_next: bool,
    tools: Sequence[dict[str, Any]] = (),
) -> str:
    """The text of a conversation; with `answer_next` it ends where the assistant begins to speak. `tools`: functions
    it may call, as JSON schemas; for a template that `takes_tools`.

    Without a template: the contents joined by line breaks. Raises RunFailed(invalid_input) when the template refuses
    the messages (some want user and assistant to alternate, some know no system role).
    """
    if not has_template(tokenizer):
        return "\n".join(message["content"] for message in messages) + ("\n" if answer_next and messages else "")
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=answer_next, tools=list(tools) or None
        )
    except TemplateError as error:
        raise invalid(f"messages: the model's chat template refuses them ({error}).") from error
    return str(text)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a rendered prompt. A template writes special tokens itself; plain text gets the tokenizer's."""
    return list(tokenizer(text, add_special_tokens=not has_template(tokenizer))["input_ids"])
