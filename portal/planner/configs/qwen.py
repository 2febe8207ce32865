"""Alibaba's Qwen 2.5 and 3, dense and mixtures. Fields of the public config.json. Knows only data."""

from typing import Any

_QWEN_2_5: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
_SMALL_2_5: dict[str, Any] = {**_QWEN_2_5, "vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True}
_QWEN_3: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "torch_dtype": "bfloat16",
}
_SMALL_3: dict[str, Any] = {**_QWEN_3, "tie_word_embeddings": True}
_QWEN_3_MOE: dict[str, Any] = {
    **_QWEN_3,
    "model_type": "qwen3_moe",
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen-2.5-0.5b": (
        "Qwen/Qwen2.5-0.5B",
        {
            **_SMALL_2_5,
            "max_position_embeddings": 32768,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
        },
    ),
    "qwen-2.5-1.5b": (
        "Qwen/Qwen2.5-1.5B",
        {
            **_SMALL_2_5,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
        },
    ),
    "qwen-2.5-3b": (
        "Qwen/Qwen2.5-3B",
        {
            **_SMALL_2_5,
            "max_position_embeddings": 32768,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
        },
    ),
    "qwen-2.5-7b": (
        "Qwen/Qwen2.5-7B",
        {
            **_QWEN_2_5,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
    ),
    "qwen-2.5-14b": (
        "Qwen/Qwen2.5-14B",
        {
            **_QWEN_2_5,
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 48,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
        },
    ),
    "qwen-2.5-32b": (
        "Qwen/Qwen2.5-32B",
        {
            **_QWEN_2_5,
            "hidden_size": 5120,
            "intermediate_size": 27648,
            "num_hidden_layers": 64,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
        },
    ),
    "qwen-2.5-72b": (
        "Qwen/Qwen2.5-72B",
        {
            **_QWEN_2_5,
            "hidden_size": 8192,
            "intermediate_size": 29568,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
        },
    ),
    "qwen-3-0.6b": (
        "Qwen/Qwen3-0.6B",
        {
            **_SMALL_3,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
        },
    ),
    "qwen-3-1.7b": (
        "Qwen/Qwen3-1.7B",
        {
            **_SMALL_3,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
        },
    ),
    "qwen-3-4b": (
        "Qwen/Qwen3-4B",
        {
            **_SMALL_3,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
        },
    ),
    "qwen-3-8b": (
        "Qwen/Qwen3-8B",
        {
            **_QWEN_3,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
        },
    ),
    "qwen-3-14b": (
        "Qwen/Qwen3-14B",
        {
            **_QWEN_3,
            "hidden_size": 5120,
            "intermediate_size": 17408,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
        },
    ),
    "qwen-3-32b": (
        "Qwen/Qwen3-32B",
        {
            **_QWEN_3,
            "hidden_size": 5120,
            "intermediate_size": 25600,
            "num_hidden_layers": 64,
            "num_attention_heads": 64,
        },
    ),
    "qwen-3-30b-a3b": (
        "Qwen/Qwen3-30B-A3B",
        {
            **_QWEN_3_MOE,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
        },
    ),
    "qwen-3-235b-a22b": (
        "Qwen/Qwen3-235B-A22B",
        {
            **_QWEN_3_MOE,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_hidden_layers": 94,
            "num_attention_heads": 64,
        },
    ),
}
"""Name → the hub id whose config.json has these fields, and the fields."""
