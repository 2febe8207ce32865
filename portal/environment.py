"""Values of the environment that settings are made of; what can't be used is refused in a sentence that names it.

Knows no setting.
"""

import json
import os
from dataclasses import fields

from django.core.exceptions import ImproperlyConfigured
from pydantic import ValidationError

from portal.jobs.scheduler import Policy
from portal.planner.rules import Rules
from workers.contract.errors import from_pydantic
from workers.contract.keeping import Limit, Unit, limit_from


def flag(name: str, default: str = "0") -> bool:
    return os.environ.get(name, default).lower() in {"1", "true", "yes", "on"}


def listed(name: str, default: str = "") -> list[str]:
    return [part.strip() for part in os.environ.get(name, default).split(",") if part.strip()]


def rules(name: str) -> Rules:
    """The planner's rules of thumb, with those that the environment sets in one JSON object."""
    known = ", ".join(Rules.model_fields)
    try:
        chosen = json.loads(os.environ.get(name) or "{}")
        if not isinstance(chosen, dict) or chosen.keys() - Rules.model_fields:
            raise ValueError("it is not an object with these names")
        return Rules.model_validate(chosen)
    except ValidationError as error:
        raise ImproperlyConfigured(f"{name}: {' '.join(item.message for item in from_pydantic(error))}") from None
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {error}; write a JSON object with some of {known}.") from None


def keep(what: str, *, days: float, size: float, unit: Unit) -> Limit:
    """How long, and how much of, something is kept."""
    try:
        return limit_from(os.environ, what, days=days, size=size, unit=unit)
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from None


def scheduling(name: str) -> Policy:
    """How the queue is ordered and who may share a device, with what the environment sets in one JSON object."""
    known = [field.name for field in fields(Policy)]
    try:
        chosen = json.loads(os.environ.get(name) or "{}")
        if not isinstance(chosen, dict) or chosen.keys() - set(known):
            raise ValueError("it is not an object with these names")
        return Policy(**{**chosen, "packs": frozenset(chosen.get("packs", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        raise ImproperlyConfigured(f"{name}: {error}; write a JSON object with some of {', '.join(known)}.") from None


def dollars(name: str) -> float | None:
    """A price; None when it isn't set."""
    text = os.environ.get(name, "").strip()
    try:
        price = float(text) if text else None
    except ValueError:
        price = -1.0
    if price is not None and not 0 <= price < 1e6:
        raise ImproperlyConfigured(f"{name}: {text!r} is no price; write US dollars an hour, such as 0.40.")
    return price
