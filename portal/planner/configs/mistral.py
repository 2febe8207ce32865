"""Mistral and Mixtral. Fields of the public config.json. Knows only data."""

from typing import Any

_MISTRAL: dict[str, Any] = {
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "torch_dtype": "bfloat16",
}
_MIXTRAL: dict[str, Any] = {
    "model_type": "mixtral",
    "vocab_size": 32000,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "torch_dtype": "bfloat16",
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral-7b": (
        "mistralai/Mistral-7B-v0.1",
        {
            **_MISTRAL,
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
        },
    ),
    "mistral-nemo-12b": (
        "mistralai/Mistral-Nemo-Base-2407",
        {
            **_MISTRAL,
            "vocab_size": 131072,
            "hidden_size": 5120,
            "intermediate_size": 14336,
            "num_hidden_layers": 40,
            "max_position_embeddings": 131072,
            "sliding_window": None,
        },
    ),
    "mistral-small-24b": (
        "mistralai/Mistral-Small-24B-Base-2501",
        {
            **_MISTRAL,
            "vocab_size": 131072,
            "hidden_size": 5120,
            "intermediate_size": 32768,
            "num_hidden_layers": 40,
            "max_position_embeddings": 32768,
            "sliding_window": None,
        },
    ),
    "mixtral-8x7b": (
        "mistralai/Mixtral-8x7B-v0.1",
        {
            **_MIXTRAL,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 32768,
        },
    ),
    "mixtral-8x22b": (
        "mistralai/Mixtral-8x22B-v0.1",
        {
            **_MIXTRAL,
            "hidden_size": 6144,
            "intermediate_size": 16384,
            "num_hidden_layers": 56,
            "num_attention_heads": 48,
            "max_position_embeddings": 65536,
        },
    ),
}
"""Name → the hub id whose config.json has these fields, and the fields."""
