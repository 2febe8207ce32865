"""Base and adapter as one model, for programs that know no adapters. Knows nothing of how either was trained."""

from pathlib import Path
from typing import Any

from workers.runtimes.base import Run
from workers.runtimes.models import add_adapter

SHARD = "4GB"
"""Largest file of its weights."""


def whole_model(model: Any) -> Any:
    """The model with its adapter added to its weights, in place; nothing is left of the adapter in memory."""
    return model.merge_and_unload() if hasattr(model, "peft_config") else model


def with_adapter(run: Run, model: Any) -> Any:
    """The model with the order's adapter in its weights, where the order has one. Raises RunFailed as `add_adapter`."""
    if run.adapter is None:
        return model
    run.phase("merging the adapter")
    return whole_model(add_adapter(model, run.adapter))


def write_whole_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """Safetensors with the tokenizer."""
    model.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)
