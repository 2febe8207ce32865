"""Models that can be planned with no weights at hand: built-in name → public config → shape.

Knows no profiles of the catalog; the data is in portal.planner.configs, each with its source.
"""

from functools import cache
from typing import Any

from portal.planner.configs import llama
from portal.planner.families import shape_from_config
from portal.planner.shapes import ModelShape
from workers.contract.errors import Refused, unknown_name

_ALL = llama.CONFIGS
MODELS: dict[str, dict[str, Any]] = {name: config for name, (_, config) in _ALL.items()}
"""Built-in name → the fields of its public config.json."""
SOURCES: dict[str, str] = {name: source for name, (source, _) in _ALL.items()}
"""Built-in name → where its config is published: a hub id, or a paper."""


def names() -> list[str]:
    """The built-in names, in the order of their families and sizes."""
    return list(MODELS)


@cache
def shape(name: str) -> ModelShape:
    """The built-in model's shape. Raises Refused at 'model', with the nearest names, for an unknown one."""
    if name not in MODELS:
        raise Refused([unknown_name("model", "model", name, MODELS)])
    return shape_from_config(MODELS[name], name)
