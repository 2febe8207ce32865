"""Chat messages of dataset rows: conversations, and pairs of answers to a prompt. Pure; knows nothing of files."""

import json
from typing import Any

Row = dict[str, Any]
Turns = list[dict[str, str]]
ROLES = ("system", "user", "assistant")
ANSWERS = ("chosen", "rejected")


def conversation(given: Any) -> Row | str:
    """The canonical row of a list of messages, also as JSON text; or the reason it is bad."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return "'messages' is text that is not JSON"
    if not isinstance(given, list) or not given:
        return "'messages' is not a list of messages"
    turns = _turns(given)
    if isinstance(turns, str):
        return turns
    if turns[-1]["role"] != "assistant":
        return "the last message is not the assistant's, so there is nothing to learn"
    return {"messages": turns}


def preference(row: Row) -> Row | str:
    """The canonical row of a prompt and two answers, all text or all lists of messages; or the reason it is bad.

    Where one is a list, text becomes a message. An answer may repeat the prompt's messages before its own.
    """
    parts: Row = {}
    for key in ("prompt", *ANSWERS):
        value = row[key]
        if isinstance(value, list):
            value = _turns(value, f" of {key!r}") or f"{key!r} is an empty list"
            if isinstance(value, str):
                return value
        elif not isinstance(value, str):
            return f"{key!r} is {type(value).__name__}, neither text nor a list of messages"
        elif not value.strip():
            return f"{key!r} is blank"
        parts[key] = value
    if any(isinstance(part, list) for part in parts.values()):
        parts = {key: _as_turns(part, "user" if key == "prompt" else "assistant") for key, part in parts.items()}
        prompt = parts["prompt"]
        if prompt[-1]["role"] == "assistant":
            return "the prompt's last message is the assistant's, so there is nothing to answer"
        for key in ANSWERS:
            if parts[key][: len(prompt)] == prompt:
                parts[key] = parts[key][len(prompt) :]
            if not parts[key] or parts[key][-1]["role"] != "assistant":
                return f"the last message of {key!r} is not the assistant's"
    if parts["chosen"] == parts["rejected"]:
        return "'chosen' and 'rejected' are the same, so there is nothing to prefer"
    return parts


def text_of(said: Any) -> str:
    """The text of a row's value: text itself, or a list of messages."""
    return "\n".join(turn["content"] for turn in said) if isinstance(said, list) else str(said)


def _turns(given: list[Any], of: str = "") -> Turns | str:
    turns = []
    for index, turn in enumerate(given, 1):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            return f"message {index}{of} has no role of system, user or assistant"
        if not isinstance(turn.get("content"), str) or not turn["content"].strip():
            return f"message {index}{of} has no content"
        turns.append({"role": turn["role"], "content": turn["content"]})
    return turns


def _as_turns(part: str | Turns, role: str) -> Turns:
    return [{"role": role, "content": part}] if isinstance(part, str) else part
