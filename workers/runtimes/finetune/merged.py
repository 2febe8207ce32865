"""Base and adapter as one model, for programs that know no adapters. Knows nothing of how either was trained."""

from pathlib import Path
from typing import Any

SHARD = "4GB"
"""Largest file of its weights."""


def write_merged(folder: Path, model: Any, tokenizer: Any) -> None:
    """Add the adapter to the weights of the model in memory, and write it with its tokenizer. Nothing is left of the
    adapter in memory."""
    whole = model.merge_and_unload()
    whole.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)
