"""A config.json read field by field: its value, else its family's default, else one sentence about what is wrong.

Knows no family: the defaults and the other names of a field come from the caller.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from workers.contract.errors import Refused

MOST = {
    "num_hidden_layers": 10_000,
    "hidden_size": 2**20,
    "intermediate_size": 2**24,
    "vocab_size": 2**28,
    "max_position_embeddings": 2**32,
}
"""The largest value that is believed, far above any model built. Every other count: MOST_OTHERWISE."""
MOST_OTHERWISE = 2**20
DTYPES = ("float32", "bfloat16", "float16")
WINDOWED = {
    "full_attention": None,
    "sliding_attention": "sliding_window",
    "chunked_attention": "attention_chunk_size",
}
"""Transformers' layer types → the field with the tokens such a layer looks back."""


class Fields:
    """One config object. Every method raises Refused with one sentence for a value that makes no sense."""

    def __init__(
        self, config: Mapping[str, Any], defaults: Mapping[str, Any], aliases: Mapping[str, str] | None = None
    ) -> None:
        self._config = config
        self._defaults = defaults
        self._aliases = aliases or {}

    def get(self, name: str) -> Any:
        """The raw value; a field that is left out has its family's default, and None where there is none."""
        for known in (self._aliases.get(name, name), name):
            if known in self._config:
                return self._config[known]
        return self._defaults.get(name)

    def named(self, name: str) -> str:
        """The name under which the config has this field."""
        alias = self._aliases.get(name, name)
        return alias if alias in self._config or name not in self._config else name

    def whole(self, name: str, least: int = 1) -> int:
        """A whole number that must be there."""
        value = self.get(name)
        most = MOST.get(name, MOST_OTHERWISE)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.refused(name, f"must be a whole number from {least} to {most:,}")
        return value

    def optional(self, name: str, least: int = 1) -> int | None:
        """A whole number, or None where the field is null or absent without a default."""
        return None if self.get(name) is None else self.whole(name, least)

    def flag(self, name: str) -> bool:
        """True or false; null and a field without a default are false."""
        value = self.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self.refused(name, "must be true or false")

    def dtype(self) -> str:
        """How the weights are published; Transformers takes float32 where nothing is said."""
        value = self.get("dtype") or self.get("torch_dtype")
        text = value.removeprefix("torch.") if isinstance(value, str) else ""
        return text if text in DTYPES else "float32"

    def listed(self, name: str, most: int) -> Sequence[Any] | None:
        """A list of at most `most` items, or None where the field is null or absent."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or len(value) > most:
            raise self.refused(name, f"must be a list of at most {most:,} items")
        return value

    def windows(self, layers: int) -> list[int | None] | None:
        """Tokens that each layer looks back by `layer_types`, None where there is no such list."""
        kinds = self.listed("layer_types", layers)
        if kinds is None:
            return None
        if len(kinds) != layers:
            raise Refused.at("config", len(kinds), f"config: layer_types names {len(kinds)} layers of {layers}.")
        found: dict[str, int | None] = {}
        for kind in kinds:
            if not isinstance(kind, str) or kind not in WINDOWED:
                raise Refused.at(
                    "config",
                    shown(kind),
                    f"config: layer_types has {shown(kind)}; only {', '.join(WINDOWED)} layers can be planned.",
                )
            if kind not in found:
                field = WINDOWED[kind]
                found[kind] = None if field is None else self.whole(field)
        return [found[kind] for kind in kinds]

    def refused(self, name: str, rule: str) -> Refused:
        """The sentence that names the field, its value and what would work."""
        value = self.get(name)
        return Refused.at("config", shown(value), f"config: {self.named(name)} is {shown(value)}; it {rule}.")


def shown(value: Any) -> str:
    """A value from JSON as its author would recognise it, cut short; deep or huge ones are only described."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:39] + "…")
    if isinstance(value, int):
        return f"{value:,}" if value.bit_length() <= 128 else "a number of more than 38 digits"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"
