"""Exports by the real runtime: what comes out answers as base and adapter do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from tests.workers.runtimes.conftest import Told, finetune_order, read_events
from workers.contract.order import AdapterInput, ModelInput, Order
from workers.contract.reasons import Reason
from workers.runtimes.base import Emitter, Run, RunFailed
from workers.runtimes.models import add_adapter, load_model
from workers.runtimes.registry import runtime_for

Finetuned = Callable[..., tuple[Run, Told]]
Export = Callable[..., tuple[Path, Told]]


def order(model: Path, adapter: Path | None = None, **spec: Any) -> dict[str, Any]:
    named = {"adapter": "tuned"} if adapter else {}
    return {
        "job": 9,
        "attempt": 1,
        "node": "here",
        "spec": {"kind": "export", "model": "tiny", **named, **spec},
        "model": {"name": "tiny", "uri": str(model)},
        **({"adapter": {"name": "tuned", "uri": str(adapter)}} if adapter else {}),
        "devices": [{"kind": "cpu", "index": 0}],
        "result_uri": "store://runs/9",
    }


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Carry out an export in this process: its output and what it told."""

    def carry_out(order: dict[str, Any]) -> tuple[Path, Told]:
        run_dir = tmp_path / str(order["spec"].get("format"))
        run_dir.mkdir()
        with (run_dir / "events").open("wb") as file:
            run = Run(Order.model_validate(order), run_dir, Emitter(file.fileno()))
            runtime_for("export")(run)
        return run.output_dir, read_events(run_dir / "events")

    return carry_out


def test_what_is_exported_answers_as_base_and_adapter_do(tiny: Path, finetuned: Finetuned, export: Export) -> None:
    run, _ = finetuned(finetune_order(tiny, evaluate=False))
    adapter = run.output_dir / "adapter"
    base, tokenizer = load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")
    ids = torch.tensor([tokenizer.encode("Where is my parcel?")])
    before = base(ids).logits
    tuned = add_adapter(base, AdapterInput(name="tuned", uri=str(adapter)))(ids).logits
    assert not torch.allclose(tuned, before, atol=1e-3)

    output, told = export(order(tiny, adapter, format="safetensors"))
    assert told.phases() == ["loading model", "merging the adapter", "saving as safetensors"]
    assert told.result("export")["numbers"] == "float32"
    merged, same = load_model(ModelInput(name="m", uri=str(output / "model")), torch.float32, "cpu")
    torch.testing.assert_close(merged(ids).logits, tuned)
    assert same.chat_template == tokenizer.chat_template

    output, _ = export(order(tiny, adapter, format="gguf"))
    source = ModelInput(name="m", uri=str(output / "model.gguf"), format="gguf")
    torch.testing.assert_close(load_model(source, torch.float32, "cpu")[0](ids).logits, tuned)


def test_a_model_that_the_writer_does_not_know_is_refused(tiny: Path, tmp_path: Path, export: Export) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, "intermediate_size": 64}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=512, num_hidden_layers=1, **sizes)).save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    with pytest.raises(RunFailed) as refused:
        export(order(tmp_path / "qwen", format="gguf"))
    assert refused.value.reason == Reason.INVALID_INPUT
    assert refused.value.detail == "format: a qwen2 model can't be written as GGUF here, only llama."
