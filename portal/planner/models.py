"""Models that can be planned with no weights at hand: built-in name → public config → shape.

Knows no profiles of the catalog; the data is in portal.planner.configs, each with its source.
"""

from functools import cache
from typing import Any

from portal.planner.configs import classic, gemma, llama, mistral, phi, qwen, sparse
from portal.planner.families import shape_from_config
from portal.planner.shapes import ModelShape
from workers.contract.errors import Refused, unknown_name

_ALL = {
    name: entry for file in (llama, qwen, mistral, gemma, phi, sparse, classic) for name, entry in file.CONFIGS.items()
}
MODELS: dict[str, dict[str, Any]] = {name: config for name, (_, config) in _ALL.items()}
"""Built-in name → the fields of its public config.json."""
SOURCES: dict[str, str] = {
    name: source if source.startswith("http") else f"https://huggingface.co/{source}/blob/main/config.json"
    for name, (source, _) in _ALL.items()
}
"""Built-in name → where its config is published."""


def names() -> list[str]:
    """The built-in names, family by family and by size."""
    return list(MODELS)


@cache
def shape(name: str) -> ModelShape:
    """The built-in model's shape. Raises Refused at 'model', with the nearest names, for an unknown one."""
    if name not in MODELS:
        raise Refused([unknown_name("model", "model", name, MODELS)])
    return shape_from_config(MODELS[name], name)
