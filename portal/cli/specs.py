"""Reads a job's spec from a file or the input, and lays `--set path=value` and node labels over it. Calls nobody."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from portal.cli.client import Problem
from workers.contract.errors import unknown_name
from workers.contract.spec import SPECS


def read(source: str, changes: list[str], labels: Sequence[str] = (), preferred: Sequence[str] = ()) -> dict[str, Any]:
    """The spec at `source` ('-': standard input) with `changes` set, and the labels that a node must or should carry.

    Raises Problem.
    """
    try:
        spec = json.loads(text_of("SPEC", source))
    except ValueError as error:
        raise Problem(f"SPEC: {source!r} is not JSON ({error}).") from None
    if not isinstance(spec, dict):
        raise Problem(f"SPEC: {source!r} holds no object with named fields.")
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise Problem(f"--set: {change!r} sets nothing; write path=value, e.g. lora.rank=8.")
        value: Any = text
        with contextlib.suppress(ValueError):
            value = json.loads(text)
        _check_path(path, spec.get("kind"))
        *parents, last = path.split(".")
        _place(spec, parents)[last] = value
    for option, field, texts in (("--label", "labels", labels), ("--prefer", "preferred_labels", preferred)):
        for text in texts:
            key, equals, label = text.partition("=")
            if not equals or not key:
                raise Problem(f"{option}: {text!r} is no label; write key=value, e.g. zone=a.")
            _place(spec, ["resources", field])[key] = label
    return spec


def text_of(option: str, source: str) -> str:
    """The text of a file, or of standard input for '-'. Raises Problem."""
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Problem(f"{option}: {source!r} can't be read ({why}); name a file, or - for the input.") from None


def _place(spec: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The object at `path`, made where there is none."""
    for part in path:
        if not isinstance(spec.get(part), dict):
            spec[part] = {}
        spec = spec[part]
    return spec


def _check_path(path: str, kind: Any) -> None:
    """A misspelt field would be ignored silently. A kind that only the portal knows is left to it."""
    model: type[BaseModel] | None = SPECS.get(kind) if isinstance(kind, str) else None
    for part in path.split("."):
        if model is None:
            return
        if part not in model.model_fields:
            raise Problem(unknown_name(path, "field", part, model.model_fields).message)
        annotation = model.model_fields[part].annotation
        models = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
        model = next((one for one in models if issubclass(one, BaseModel)), None)
