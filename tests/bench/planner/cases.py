"""What is run: three models and the matrix of methods. Knows nothing of how a run is measured."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

MODELS: dict[str, dict[str, Any]] = {
    "llama-10m": {
        "vocab_size": 16384,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "llama-48m": {
        "vocab_size": 16000,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    # The sizes of HuggingFaceTB/SmolLM2-135M's config.json.
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
}
COMMON = {"model_type": "llama", "max_position_embeddings": 2048, "hidden_act": "silu", "dtype": "float32"}
ANSWER = 8
"""Tokens of an answer when generating."""


class Case(BaseModel):
    """One run. `batch`: sequences at once, of different lengths up to `context` tokens (the answer's included)."""

    model: str
    goal: Literal["infer", "lora", "qlora", "full"]
    batch: int
    context: int
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = False
    quantization: Literal["none", "nf4", "int8"] = "none"
    lora_rank: int = 16
    accumulation: int = 1

    @property
    def words(self) -> str:
        """'smollm2-135m qlora nf4 fp32 4 × 256, recomputed'."""
        quantized = "" if self.quantization == "none" else f" {self.quantization}"
        accumulated = f", {self.accumulation} times" if self.accumulation > 1 else ""
        again = ", recomputed" if self.checkpointing else ""
        return f"{self.model} {self.goal}{quantized} {self.precision} {self.batch} × {self.context}{accumulated}{again}"


def matrix() -> list[Case]:
    """Every goal on every model, spread over number types, batches of 1 to 8, contexts of 128 to 1,024 tokens and
    recomputing; the long ones on the small models, so that the whole stays a matter of minutes."""
    small, middle, large = MODELS
    rows: list[dict[str, Any]] = [
        {"model": small, "goal": "full", "batch": 8, "context": 128},
        {"model": small, "goal": "full", "batch": 1, "context": 1024},
        {"model": small, "goal": "full", "batch": 4, "context": 512, "checkpointing": True},
        {"model": small, "goal": "full", "batch": 2, "context": 256, "precision": "bf16"},
        {"model": small, "goal": "lora", "batch": 8, "context": 1024, "checkpointing": True},
        {"model": small, "goal": "lora", "batch": 4, "context": 512},
        {"model": small, "goal": "lora", "batch": 1, "context": 128},
        {"model": small, "goal": "lora", "batch": 2, "context": 256, "precision": "bf16"},
        {"model": small, "goal": "qlora", "batch": 4, "context": 256},
        {"model": small, "goal": "qlora", "batch": 2, "context": 128, "precision": "bf16"},
        {"model": small, "goal": "qlora", "batch": 1, "context": 1024, "checkpointing": True},
        {"model": small, "goal": "infer", "batch": 8, "context": 1024},
        {"model": small, "goal": "infer", "batch": 1, "context": 512, "precision": "bf16"},
        {"model": small, "goal": "infer", "batch": 4, "context": 128, "quantization": "nf4"},
        {"model": middle, "goal": "full", "batch": 2, "context": 256},
        {"model": middle, "goal": "full", "batch": 1, "context": 128, "precision": "bf16"},
        {"model": middle, "goal": "full", "batch": 1, "context": 512, "accumulation": 2},
        {"model": middle, "goal": "lora", "batch": 4, "context": 256},
        {"model": middle, "goal": "lora", "batch": 1, "context": 1024, "checkpointing": True},
        {"model": middle, "goal": "lora", "batch": 2, "context": 128, "precision": "bf16", "lora_rank": 64},
        {"model": middle, "goal": "qlora", "batch": 2, "context": 512},
        {"model": middle, "goal": "infer", "batch": 4, "context": 512},
        {"model": middle, "goal": "infer", "batch": 2, "context": 1024, "quantization": "int8"},
        {"model": middle, "goal": "infer", "batch": 1, "context": 256, "precision": "bf16", "quantization": "nf4"},
        {"model": large, "goal": "full", "batch": 1, "context": 128},
        {"model": large, "goal": "full", "batch": 2, "context": 256, "checkpointing": True},
        {"model": large, "goal": "lora", "batch": 1, "context": 512},
        {"model": large, "goal": "lora", "batch": 4, "context": 128, "checkpointing": True},
        {"model": large, "goal": "qlora", "batch": 2, "context": 256},
        {"model": large, "goal": "qlora", "batch": 1, "context": 128, "checkpointing": True},
        {"model": large, "goal": "infer", "batch": 8, "context": 256},
        {"model": large, "goal": "infer", "batch": 1, "context": 1024},
        {"model": large, "goal": "infer", "batch": 2, "context": 128, "quantization": "nf4"},
    ]
    return [Case(**{"quantization": "nf4" if row["goal"] == "qlora" else "none", **row}) for row in rows]


def config(model: str) -> dict[str, Any]:
    """The model's config.json."""
    return {**COMMON, **MODELS[model]}


def build(model: str, folder: Path) -> Path:
    """Write the model with random weights (memory doesn't depend on them) and a small tokenizer to `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny_model import build as tiny

    tiny(folder)
    torch.manual_seed(0)
    tokens = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    LlamaForCausalLM(LlamaConfig(**config(model), **tokens)).save_pretrained(folder)
    return folder
