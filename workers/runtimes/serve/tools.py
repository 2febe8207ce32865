"""Calls of tools in an answer's text: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as the templates of
Hermes, Qwen and those after them have it.

Text that isn't such a call stays text. Knows nothing of what a tool does.
"""

import json
import re
import uuid
from typing import Any

OPENING = "<tool_call>"
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)


def split(text: str) -> tuple[str, list[dict[str, Any]]]:
    """(the text around the calls, the calls in OpenAI's shape)."""
    calls = []

    def taken(found: re.Match[str]) -> str:
        call = _call(found[1])
        if call is None:
            return found[0]
        calls.append(call)
        return ""

    rest = _CALL.sub(taken, text)
    return (rest.strip() if calls else rest), calls


def _call(text: str) -> dict[str, Any] | None:
    try:
        given = json.loads(text)
        name, arguments = given["name"], given.get("arguments", {})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not isinstance(name, str):
        return None
    spelt = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": name, "arguments": spelt}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
