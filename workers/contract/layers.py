"""Names and patterns that pick layers and parameters of a model, as a person writes them with commas.

Knows no model.
"""

from fnmatch import fnmatchcase


def listed(text: str) -> list[str]:
    """'q_proj, layers.1?.mlp.*' → its parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def is_pattern(wanted: str) -> bool:
    """Whether it stands for more than a plain name."""
    return any(sign in wanted for sign in "*?[")


def meets(name: str, pattern: str) -> bool:
    """Whether the pattern is the name, or a run of whole parts of it: 'layers.1' meets 'model.layers.1.mlp.up_proj'."""
    return any(fnmatchcase(f".{name}.", around) for around in (f".{pattern}.", f"*.{pattern}.*"))
