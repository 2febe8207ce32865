"""Microsoft's Phi 2 to 4. Fields of the public config.json. Knows only data."""

from typing import Any

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi-2": (
        "microsoft/phi-2",
        {
            "model_type": "phi",
            "vocab_size": 51200,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "torch_dtype": "float16",
        },
    ),
    "phi-3-mini": (
        "microsoft/Phi-3-mini-4k-instruct",
        {
            "model_type": "phi3",
            "vocab_size": 32064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "sliding_window": 2047,
            "torch_dtype": "bfloat16",
        },
    ),
    "phi-4": (
        "microsoft/phi-4",
        {
            "model_type": "phi3",
            "vocab_size": 100352,
            "hidden_size": 5120,
            "intermediate_size": 17920,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 10,
            "max_position_embeddings": 16384,
            "torch_dtype": "bfloat16",
        },
    ),
}
"""Name → the hub id whose config.json has these fields, and the fields."""
