"""How numbers and states are written on pages. Knows no record."""

import json
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

COLOURS = {
    "queued": "secondary",
    "dispatched": "azure",
    "running": "blue",
    "cancelling": "orange",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "secondary",
    "active": "green",
    "draining": "orange",
    "online": "green",
    "offline": "red",
    "ok": "green",
    "warn": "orange",
    "fail": "red",
    "met": "green",
    "missed": "red",
}
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@register.filter
def gib(value: float | None) -> str:
    """Bytes in the binary unit that reads best: 1610612736 → '1.5 GiB'."""
    if value is None:
        return "—"
    size, unit = float(value), 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {UNITS[unit]}"


@register.filter
def count(value: Any) -> str:
    """A large count: 134515008 → '134.5 M'. What a run did not say, or said in words, is '—'."""
    if not isinstance(value, (int, float)):
        return "—"
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f} {letter}"
    return f"{value:g}"


@register.filter
def figure(value: Any) -> str:
    """A measured figure with four significant digits, a large one to the unit; text as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "—" if value is None else str(value)
    if isinstance(value, int) or 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@register.filter
def seconds(value: Any) -> str:
    """Seconds in words: 3725 → '1 h 2 min'. What a run did not say, or said in words, is '—'."""
    if not isinstance(value, (int, float)):
        return "—"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@register.filter
def pretty(value: Any) -> str:
    """JSON, indented."""
    return json.dumps(value, indent=2, ensure_ascii=False)


@register.filter
def words(name: str) -> str:
    """A name of the contract as it is read: load_test → load test."""
    return name.replace("_", " ")


@register.filter
def get(mapping: dict[str, Any], key: str) -> Any:
    """mapping[key], or None."""
    return mapping.get(key) if mapping else None


@register.simple_tag
def badge(word: str) -> SafeString:
    """A state as a coloured badge."""
    colour = COLOURS.get(word, "secondary")
    return format_html('<span class="badge bg-{0}-lt status-{1}" data-status="{1}">{1}</span>', colour, word)
