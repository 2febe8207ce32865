"""A model of a few million random parameters, and rows of short and of mixed lengths to train it on."""

import json
import random
from pathlib import Path

from tests import tiny_model

WORDS = " ".join(tiny_model.TEXT).split()


def model(folder: Path) -> Path:
    """A Llama (6 layers, hidden 256) with the tiny model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tiny_model.build(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def rows(path: Path, count: int, shortest: int, longest: int) -> Path:
    """Prompt and completion rows; the words of a completion lie between the two, most of them near the shorter."""
    draw = random.Random(7)
    with path.open("w") as file:
        for _ in range(count):
            words = round(shortest * (longest / shortest) ** draw.random())
            text = " ".join(draw.choice(WORDS) for _ in range(words))
            file.write(json.dumps({"prompt": "Go on.", "completion": text}) + "\n")
    return path
