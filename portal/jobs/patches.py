"""Changed values laid over a spec: what cloning a job takes. Pure; does not know which values are valid."""

from copy import deepcopy
from typing import Any

from workers.contract.errors import FieldError, Refused, unknown_name

FREE_KEYS = ("resources.labels", "resources.preferred_labels", "deepspeed.config")
"""Objects whose keys the user chooses: replaced as a whole."""


def patched(spec: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """A copy of `spec` with the values of `patch`, object by object; null sets null.

    A fine-tune makes an adapter of its own, so its name is not copied. Raises Refused at a field the spec hasn't.
    """
    base = deepcopy(spec)
    if spec.get("kind") == "finetune":
        base["adapter"] = None
    errors: list[FieldError] = []
    merged = _merge(base, patch, "", errors)
    if errors:
        raise Refused(errors)
    return merged


def _merge(base: dict[str, Any], patch: dict[str, Any], path: str, errors: list[FieldError]) -> dict[str, Any]:
    for key, value in patch.items():
        place = f"{path}.{key}" if path else key
        if key not in base:
            errors.append(unknown_name(place, "field", key, base))
        elif isinstance(value, dict) and isinstance(base.get(key), dict) and place not in FREE_KEYS:
            base[key] = _merge(base[key], value, place, errors)
        else:
            base[key] = value
    return base
