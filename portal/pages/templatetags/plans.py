"""How a plan's verdicts, times, prices and rules are written on pages. Knows no plan."""

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from portal.pages.templatetags.liftoff import seconds

register = template.Library()

COLOURS = {"fits": "green", "tight": "orange", "exceeds": "red"}
WORDS = {"fits": "Fits", "tight": "Tight", "exceeds": "Exceeds"}
QUESTIONS = {
    "context": "Largest context",
    "micro_batch": "Largest micro batch",
    "concurrency": "Most requests at once",
    "hardware": "Smallest hardware",
}


@register.simple_tag
def verdict(word: str, size: str = "") -> SafeString:
    """Fits, tight or exceeds as a coloured badge; `size` 'lg' for a large one."""
    return format_html(
        '<span class="badge {0}bg-{1}-lt status-{2}" data-verdict="{2}">{3}</span>',
        f"badge-{size} " if size else "",
        COLOURS.get(word, "secondary"),
        word,
        WORDS.get(word, word),
    )


@register.filter
def took(value: float | None) -> str:
    """A duration with three digits: 0.0234 → '23.4 ms', 12.3 → '12.3 s', 3725 → '1 h 2 min'."""
    if value is None:
        return "—"
    for unit, name in ((1e-3, "µs"), (1.0, "ms")):
        if value < unit:
            return f"{_three(value / unit * 1000)} {name}"
    return f"{_three(value)} s" if value < 60 else seconds(value)


@register.filter
def question(name: str) -> str:
    """An inverse question in words: 'micro_batch' → 'Largest micro batch'."""
    return QUESTIONS.get(name, name)


@register.filter
def rate(value: float | None) -> str:
    """Tokens a second, three digits where that is more than it is known by: 1234.5 → '1,234', 43.87 → '43.9'."""
    if value is None:
        return "—"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@register.filter
def money(value: float | None) -> str:
    """US dollars: 0.0034 → '$0.0034', 12.3 → '$12.30', 12345.6 → '$12,346'; what is next to nothing is '< $0.001'."""
    if value is None:
        return "—"
    if 0 < value < 0.001:
        return "< $0.001"
    if value >= 1000:
        return f"${value:,.0f}"
    return f"${value:,.2f}" if value >= 0.1 or value == 0 else f"${value:.2g}"


@register.filter
def percent(value: float) -> str:
    """A fraction of 1: 0.153 → '15%', 0.004 → '0.4%'."""
    return f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value * 100:.2g}%"


def _three(value: float) -> str:
    """Three significant digits without an exponent: 0.5 → '0.5', 12.34 → '12.3', 532.1 → '532'."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
