"""Refusals in sentences: which field, which value, what would work.

Turns pydantic's errors into the one form that the browser form, the REST API (422) and the CLI show.
Does not know which of them is asking.
"""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError

KINDS = ("finetune", "launch", "preflight", "load_test", "export", "quantize")
"""Kinds of job, which pydantic puts before the path of a field."""


class FieldError(NamedTuple):
    """One refusal. `field` is a dotted path such as 'lora.rank'; `message` is a whole sentence."""

    field: str
    value: Any
    message: str


class Refused(ValueError):
    """Input that can't be used, with at least one FieldError."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__(" ".join(error.message for error in errors))
        self.errors = errors

    @classmethod
    def at(cls, field: str, value: Any, message: str) -> "Refused":
        """The common case of one error."""
        return cls([FieldError(field, value, message)])


def unknown_name(field: str, what: str, value: str, known: Iterable[str]) -> FieldError:
    """`value` names no `what`: say so with the nearest known names."""
    names = sorted(known)
    near = get_close_matches(value, names, n=3, cutoff=0.5) or names[:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are no {what}s yet; add one first."
    return FieldError(field, value, f"{field}: there is no {what} named {value!r}; {hint}")


def from_pydantic(error: ValidationError) -> list[FieldError]:
    """One FieldError for each of pydantic's, without its vocabulary."""
    return [
        _field_error(item["loc"], item["type"], item["msg"], item.get("ctx", {}), item["input"])
        for item in error.errors(include_url=False)
    ]


def _field_error(
    location: tuple[int | str, ...], kind: str, text: str, context: dict[str, Any], given: Any
) -> FieldError:
    parts = [str(part) for part in location if part not in ("body", "spec")]
    field = ".".join(parts[1:] if parts and parts[0] in KINDS else parts)
    if kind == "value_error" and ": " in text and (not field or isinstance(given, dict)):
        # A whole-model check names its field itself: "max_tokens: 300 leaves no room…".
        own, text = text.removeprefix("Value error, ").split(": ", 1)
        path = f"{field}.{own}" if field else own
        return FieldError(path, given.get(own) if isinstance(given, dict) else None, f"{path}: {text}")
    field = field or "spec"
    shown = _shown(given)
    bounds = {
        "greater_than": "more than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "less than {lt}",
        "less_than_equal": "at most {le}",
    }
    if kind in bounds:
        limits = {name: f"{limit:.15g}" if isinstance(limit, float) else limit for name, limit in context.items()}
        rule = f"{shown} is out of range; it must be {bounds[kind].format(**limits)}."
    elif kind == "missing":
        rule = "this field is required."
    elif kind in ("literal_error", "enum"):
        rule = f"{shown} is not one of the choices; use {context.get('expected', '')}."
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        named = given.get("kind") if isinstance(given, dict) else given
        kinds = f"{', '.join(map(repr, KINDS[:-1]))} or {KINDS[-1]!r}"
        field, rule = "kind", f"{_shown(named)} is no kind of job; use {kinds}."
    elif kind.startswith(("int_", "float_", "finite")):
        rule = f"{shown} is not a {'whole number' if kind.startswith('int_') else 'number'}."
    elif kind.startswith("bool_"):
        rule = f"{shown} is neither true nor false."
    elif kind == "string_too_long":
        rule = f"{len(given)} characters are too many; use at most {context['max_length']}."
    elif kind == "string_too_short":
        rule = "it must not be empty."
    elif kind.startswith("string_"):
        rule = f"{shown} is not text."
    elif kind.startswith(("dict_", "model_", "json_")):
        rule = f"{shown} is not an object with named fields."
    else:
        rule = text.removeprefix("Value error, ")
    return FieldError(field, given, f"{field}: {rule}")


def _shown(value: Any) -> str:
    """The value as the user would recognise it, cut short."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
