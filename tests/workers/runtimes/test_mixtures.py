"""Mixtures of experts: adapters on attention and on the experts, and what the router's balance costs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.tiny_model import CONTEXT
from tests.workers.runtimes.conftest import Told, finetune_order
from tests.workers.runtimes.test_methods import learns, made
from workers.contract.order import AdapterInput, ModelInput
from workers.runtimes.base import Run, RunFailed
from workers.runtimes.models import add_adapter, load_model

Finetuned = Callable[..., tuple[Run, Told]]
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "num_experts_per_tok": 2,
    "bos_token_id": None,
}


@pytest.fixture(scope="module", params=["mixtral", "qwen3_moe"])
def mixture(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random one of four experts."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if request.param == "mixtral":
            model = MixtralForCausalLM(MixtralConfig(**SIZES, **ends, num_local_experts=4))
        else:
            model = Qwen3MoeForCausalLM(
                Qwen3MoeConfig(**SIZES, **ends, num_experts=4, moe_intermediate_size=64, head_dim=16)
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_attention_and_experts_get_adapters_and_the_router_loss_is_told(mixture: Path, finetuned: Finetuned) -> None:
    run, told = finetuned(finetune_order(mixture, max_steps=6))

    assert learns(told)
    balance = told.metric("aux_loss")
    assert len(balance) == 6
    assert all(math.isfinite(value) and value > 0 for value in balance)
    adapted = {name.split(".layers.")[1].split(".", 1)[1].rsplit(".", 2)[0] for name in made(run)}
    assert {"self_attn.q_proj", "self_attn.o_proj"} < adapted
    assert any("experts" in name for name in adapted)

    plain, tokenizer = load_model(ModelInput(name="m", uri=str(mixture)), torch.float32, "cpu")
    asked = tokenizer("Where is my parcel?", return_tensors="pt")
    before = plain(**asked).logits
    tuned = add_adapter(plain, AdapterInput(name="tuned", uri=str(run.output_dir / "adapter")))
    assert not torch.allclose(tuned(**asked).logits, before, atol=1e-3)


def test_experts_may_be_named_and_take_no_dropout(mixture: Path, finetuned: Finetuned) -> None:
    run, _ = finetuned(
        finetune_order(mixture, max_steps=1, evaluate=False, lora={"target_modules": "q_proj, down_proj"})
    )
    names = " ".join(made(run))
    assert ".q_proj." in names
    assert ".experts." in names
    assert ".k_proj." not in names
    with pytest.raises(RunFailed, match=r"lora\.dropout: 0\.1 can't be had with adapters on a mixture's experts"):
        finetuned(finetune_order(mixture, lora={"dropout": 0.1}), "dropped")
