"""How errors, steps and what was planned are written on the calibration page. Knows no record."""

from django import template

from portal.pages.calibration_words import device_title, method_words
from portal.pages.quantities import duration

register = template.Library()
register.filter("device_title", device_title)
register.filter("method_words", method_words)


@register.filter
def percent(value: float | None) -> str:
    """A fraction as a percentage with two digits that count: 0.0312 → '3.1%'."""
    if value is None:
        return "—"
    return f"{value:.0%}" if abs(value) >= 0.0995 else f"{value:.1%}"


@register.filter
def signed_percent(value: float | None) -> str:
    """The same with its sign: negative where a run took more than was said."""
    if value is None:
        return "—"
    return f"{'−' if value < 0 else '+'}{percent(abs(value))}"


@register.filter
def short_seconds(value: float | None) -> str:
    """A step's seconds: 0.0123 → '12.3 ms'."""
    return "—" if value is None else duration(value)
