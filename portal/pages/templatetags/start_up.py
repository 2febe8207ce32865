"""The card that tells how a launch started, step by step. Writes nothing."""

from typing import Any

from django import template
from pydantic import ValidationError

from workers.contract.startup import RESULT, StartUp

register = template.Library()


@register.inclusion_tag("serving/_start_up.html")
def start_up_of(results: dict[str, Any]) -> dict[str, StartUp | None]:
    """By what a job told; nothing of one that is no launch, or isn't ready yet."""
    try:
        return {"start": StartUp.model_validate(results.get(RESULT))}
    except ValidationError:
        return {"start": None}
