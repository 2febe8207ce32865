"""Meta's Llama 2 and 3, and SmolLM2, which has their architecture. The fields of the
public config.json. Knows only data."""

from typing import Any

_LLAMA_2: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}
_LLAMA_3: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
}
_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
_70B = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
_LLAMA_3_1: dict[str, Any] = {**_LLAMA_3, "max_position_embeddings": 131072}
_SMOLLM2: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-2-7b": (
        "meta-llama/Llama-2-7b-hf",
        {
            **_LLAMA_2,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
    ),
    "llama-2-13b": (
        "meta-llama/Llama-2-13b-hf",
        {
            **_LLAMA_2,
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
        },
    ),
    "llama-2-70b": ("meta-llama/Llama-2-70b-hf", {**_LLAMA_2, **_70B, "num_key_value_heads": 8}),
    "llama-3-8b": ("meta-llama/Meta-Llama-3-8B", {**_LLAMA_3, **_8B}),
    "llama-3-70b": ("meta-llama/Meta-Llama-3-70B", {**_LLAMA_3, **_70B}),
    "llama-3.1-8b": ("meta-llama/Llama-3.1-8B", {**_LLAMA_3_1, **_8B}),
    "llama-3.1-70b": ("meta-llama/Llama-3.1-70B", {**_LLAMA_3_1, **_70B}),
    "llama-3.1-405b": (
        "meta-llama/Llama-3.1-405B",
        {
            **_LLAMA_3_1,
            "hidden_size": 16384,
            "intermediate_size": 53248,
            "num_hidden_layers": 126,
            "num_attention_heads": 128,
        },
    ),
    "llama-3.2-1b": (
        "meta-llama/Llama-3.2-1B",
        {
            **_LLAMA_3_1,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "head_dim": 64,
            "tie_word_embeddings": True,
        },
    ),
    "llama-3.2-3b": (
        "meta-llama/Llama-3.2-3B",
        {
            **_LLAMA_3_1,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 28,
            "num_attention_heads": 24,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
    ),
    "smollm2-135m": (
        "HuggingFaceTB/SmolLM2-135M",
        {
            **_SMOLLM2,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
    ),
    "smollm2-360m": (
        "HuggingFaceTB/SmolLM2-360M",
        {
            **_SMOLLM2,
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
        },
    ),
    "smollm2-1.7b": (
        "HuggingFaceTB/SmolLM2-1.7B",
        {
            **_SMOLLM2,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
        },
    ),
}
"""Name → the hub id whose config.json has these fields, and the fields."""
