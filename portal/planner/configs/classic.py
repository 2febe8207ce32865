"""GPT-2 and 3, GPT-NeoX, OPT, BLOOM, Falcon and BERT. Fields of the public config.json, or of the paper.

Knows only data.
"""

from typing import Any

_GPT_2: dict[str, Any] = {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024}
_OPT: dict[str, Any] = {
    "model_type": "opt",
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "torch_dtype": "float16",
}
_BERT: dict[str, Any] = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-2": ("openai-community/gpt2", {**_GPT_2, "n_embd": 768, "n_layer": 12, "n_head": 12}),
    "gpt-2-medium": ("openai-community/gpt2-medium", {**_GPT_2, "n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "gpt-2-large": ("openai-community/gpt2-large", {**_GPT_2, "n_embd": 1280, "n_layer": 36, "n_head": 20}),
    "gpt-2-xl": ("openai-community/gpt2-xl", {**_GPT_2, "n_embd": 1600, "n_layer": 48, "n_head": 25}),
    # Table 2.1; section 2.1: the architecture is GPT-2's. The weights were never published.
    "gpt-3-175b": (
        "https://arxiv.org/abs/2005.14165",
        {**_GPT_2, "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048, "torch_dtype": "float16"},
    ),
    "gpt-neox-20b": (
        "EleutherAI/gpt-neox-20b",
        {
            "model_type": "gpt_neox",
            "vocab_size": 50432,
            "hidden_size": 6144,
            "intermediate_size": 24576,
            "num_hidden_layers": 44,
            "num_attention_heads": 64,
            "max_position_embeddings": 2048,
            "torch_dtype": "float16",
        },
    ),
    "opt-125m": (
        "facebook/opt-125m",
        {**_OPT, "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    ),
    "opt-6.7b": (
        "facebook/opt-6.7b",
        {**_OPT, "hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32},
    ),
    "opt-66b": (
        "facebook/opt-66b",
        {**_OPT, "hidden_size": 9216, "ffn_dim": 36864, "num_hidden_layers": 64, "num_attention_heads": 72},
    ),
    "bloom-176b": (
        "bigscience/bloom",
        {
            "model_type": "bloom",
            "vocab_size": 250880,
            "hidden_size": 14336,
            "n_layer": 70,
            "n_head": 112,
            "seq_length": 2048,
            "torch_dtype": "bfloat16",
        },
    ),
    "falcon-7b": (
        "tiiuae/falcon-7b",
        {
            "model_type": "falcon",
            "vocab_size": 65024,
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "multi_query": True,
            "torch_dtype": "bfloat16",
        },
    ),
    "falcon-40b": (
        "tiiuae/falcon-40b",
        {
            "model_type": "falcon",
            "vocab_size": 65024,
            "hidden_size": 8192,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "num_kv_heads": 8,
            "new_decoder_architecture": True,
            "torch_dtype": "bfloat16",
        },
    ),
    "bert-base": (
        "google-bert/bert-base-uncased",
        {
            **_BERT,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
    ),
    "bert-large": (
        "google-bert/bert-large-uncased",
        {
            **_BERT,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
    ),
}
"""Name → the hub id whose config.json has these fields (or the paper), and the fields."""
