"""DeepSeek-V2 and V3, and gpt-oss. Fields of the public config.json. Knows only data."""

from typing import Any

_DEEPSEEK: dict[str, Any] = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "max_position_embeddings": 163840,
    "torch_dtype": "bfloat16",
}
_DEEPSEEK_V2: dict[str, Any] = {
    **_DEEPSEEK,
    "model_type": "deepseek_v2",
    "vocab_size": 102400,
    "first_k_dense_replace": 1,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
}
_GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss",
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
    "max_position_embeddings": 131072,
    "num_experts_per_tok": 4,
    "torch_dtype": "bfloat16",
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek-v2-lite": (
        "deepseek-ai/DeepSeek-V2-Lite",
        {
            **_DEEPSEEK_V2,
            "q_lora_rank": None,
            "hidden_size": 2048,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "n_routed_experts": 64,
        },
    ),
    "deepseek-v2": (
        "deepseek-ai/DeepSeek-V2",
        {
            **_DEEPSEEK_V2,
            "q_lora_rank": 1536,
            "hidden_size": 5120,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "n_routed_experts": 160,
        },
    ),
    "deepseek-v3": (
        "deepseek-ai/DeepSeek-V3",
        {
            **_DEEPSEEK,
            "model_type": "deepseek_v3",
            "vocab_size": 129280,
            "q_lora_rank": 1536,
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "first_k_dense_replace": 3,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
        },
    ),
    "gpt-oss-20b": ("openai/gpt-oss-20b", {**_GPT_OSS, "num_hidden_layers": 24, "num_local_experts": 32}),
    "gpt-oss-120b": ("openai/gpt-oss-120b", {**_GPT_OSS, "num_hidden_layers": 36, "num_local_experts": 128}),
}
"""Name → the hub id whose config.json has these fields, and the fields."""
