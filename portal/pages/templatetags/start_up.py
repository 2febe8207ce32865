"""The card that tells how a launch started, step by step. Writes nothing."""

from typing import Any

from django import template
from pydantic import ValidationError

from workers.contract.startup import RESULT, StartUp

register = template.Library()


@register.filter
def rate(bytes_per_s: float) -> str:
    """As preflight writes it: 7.94e8 → '794 MB/s'."""
    return f"{bytes_per_s / 1e9:.3g} GB/s" if bytes_per_s >= 1e9 else f"{bytes_per_s / 1e6:.3g} MB/s"


@register.inclusion_tag("serving/_start_up.html")
def start_up_of(results: dict[str, Any]) -> dict[str, StartUp | None]:
    """By what a job told; nothing of one that is no launch, or isn't ready yet."""
    try:
        return {"start": StartUp.model_validate(results.get(RESULT))}
    except ValidationError:
        return {"start": None}
