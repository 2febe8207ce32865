"""The card that tells how a launch started, step by step. Writes nothing."""

from typing import Any

from django import template

from portal.pages.sweep_chart import rate
from workers.contract.startup import RESULT, StartUp

register = template.Library()
register.filter(rate)


@register.inclusion_tag("serving/_start_up.html")
def start_up_of(results: dict[str, Any]) -> dict[str, StartUp | None]:
    """By what a job told; nothing of one that is no launch, or isn't ready yet."""
    return {"start": StartUp.told(results.get(RESULT))}
