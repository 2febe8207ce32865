"""Google's Gemma 2 and 3, of Gemma 3 the text part. Fields of the public config.json. Knows only data."""

from typing import Any

_GEMMA_2: dict[str, Any] = {
    "model_type": "gemma2",
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
}
_GEMMA_3: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "sliding_window": 1024,
    "torch_dtype": "bfloat16",
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma-2-2b": (
        "google/gemma-2-2b",
        {
            **_GEMMA_2,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
        },
    ),
    "gemma-2-9b": (
        "google/gemma-2-9b",
        {
            **_GEMMA_2,
            "hidden_size": 3584,
            "intermediate_size": 14336,
            "num_hidden_layers": 42,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 256,
        },
    ),
    "gemma-2-27b": (
        "google/gemma-2-27b",
        {
            **_GEMMA_2,
            "hidden_size": 4608,
            "intermediate_size": 36864,
            "num_hidden_layers": 46,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "head_dim": 128,
        },
    ),
    "gemma-3-1b": (
        "google/gemma-3-1b-pt",
        {
            **_GEMMA_3,
            "vocab_size": 262144,
            "max_position_embeddings": 32768,
            "sliding_window": 512,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_hidden_layers": 26,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
        },
    ),
    "gemma-3-4b": (
        "google/gemma-3-4b-pt",
        {
            **_GEMMA_3,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
        },
    ),
    "gemma-3-12b": (
        "google/gemma-3-12b-pt",
        {
            **_GEMMA_3,
            "hidden_size": 3840,
            "intermediate_size": 15360,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 256,
        },
    ),
    "gemma-3-27b": (
        "google/gemma-3-27b-pt",
        {
            **_GEMMA_3,
            "hidden_size": 5376,
            "intermediate_size": 21504,
            "num_hidden_layers": 62,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "head_dim": 128,
        },
    ),
}
"""Name → the hub id whose config.json has these fields, and the fields."""
