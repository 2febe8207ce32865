"""What of a model is trained, and what comes out: adapters of each variant, a whole model, named layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.workers.runtimes.conftest import Told, finetune_order
from tests.workers.runtimes.test_checkpoints import resumed
from workers.contract.order import AdapterInput, ModelInput
from workers.contract.reasons import Reason
from workers.runtimes.base import Run, RunFailed
from workers.runtimes.models import add_adapter, load_model

Finetuned = Callable[..., tuple[Run, Told]]


def made(run: Run) -> dict[str, torch.Tensor]:
    (file,) = run.output_dir.glob("*/*model.safetensors")
    return dict(load_file(file))


def learns(told: Told) -> bool:
    return bool(told.result("test_after")["loss"] < told.result("test_before")["loss"])


def test_the_merged_model_answers_as_the_base_with_the_adapter_does(tiny: Path, finetuned: Finetuned) -> None:
    run, told = finetuned(finetune_order(tiny, evaluate=False, learning_rate=0.01, save_merged=True, save_gguf=True))
    assert told.phases()[-2:] == ["saving adapter", "saving merged model"]
    base, tokenizer = load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")
    ids = torch.tensor([tokenizer.encode("Where is my parcel?")])
    before = base(ids).logits
    tuned = add_adapter(base, AdapterInput(name="tuned", uri=str(run.output_dir / "adapter")))(ids).logits
    merged, _ = load_model(ModelInput(name="merged", uri=str(run.output_dir / "model")), torch.float32, "cpu")
    torch.testing.assert_close(merged(ids).logits, tuned)
    assert not torch.allclose(merged(ids).logits, before, atol=1e-3)

    source = ModelInput(name="merged", uri=str(run.output_dir / "model.gguf"), format="gguf")
    as_gguf, same = load_model(source, torch.float32, "cpu")
    written, read = merged.state_dict(), as_gguf.state_dict()
    assert [name for name in written if not torch.equal(written[name], read[name])] == []
    text = "<|im_start|>user\nCafé, 1234 times!<|im_end|>\n"
    assert same.encode(text) == tokenizer.encode(text)
    assert same.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("variant", ["dora", "rslora"])
def test_variants_of_lora_train_and_answer(tiny: Path, finetuned: Finetuned, variant: str) -> None:
    run, told = finetuned(finetune_order(tiny, max_steps=8, learning_rate=0.01, lora={"variant": variant}))
    _, plain = finetuned(finetune_order(tiny, max_steps=8, learning_rate=0.01), "plain")

    assert learns(told)
    assert told.metric("loss")[-1] != plain.metric("loss")[-1]
    more = told.result("training")["trainable_parameters"] - plain.result("training")["trainable_parameters"]
    assert (more > 0) == (variant == "dora")  # a magnitude for every output
    model, tokenizer = load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")
    tuned = add_adapter(model, AdapterInput(name="tuned", uri=str(run.output_dir / "adapter")))
    assert tuned(**tokenizer("Where is my parcel?", return_tensors="pt")).logits.isfinite().all()


def test_qlora_trains_adapters_on_four_bit_weights(tiny: Path, finetuned: Finetuned) -> None:
    run, told = finetuned(finetune_order(tiny, max_steps=8, method="qlora", learning_rate=0.01))

    _, unscored = finetuned(finetune_order(tiny, max_steps=8, method="qlora", learning_rate=0.01, evaluate=False), "2")
    assert learns(told)
    assert told.metric("grad_norm") == unscored.metric("grad_norm")  # scoring before leaves the gradients alone
    assert {"lora_A", "lora_B"} == {name.split(".")[-2] for name in made(run)}


def test_a_full_fine_tune_leaves_a_model_that_loads_by_itself(tiny: Path, finetuned: Finetuned) -> None:
    run, told = finetuned(finetune_order(tiny, max_steps=8, method="full", learning_rate=0.005))

    assert learns(told)
    assert told.phases()[-1] == "saving model"
    source, target = (
        load_model(ModelInput(name="m", uri=str(uri)), torch.float32, "cpu") for uri in (tiny, run.output_dir / "model")
    )
    changed = {
        name
        for (name, before), after in zip(source[0].named_parameters(), target[0].parameters(), strict=True)
        if not torch.equal(before, after)
    }
    assert changed == {name for name, _ in source[0].named_parameters()}
    assert target[1].encode("Where is my parcel?") == source[1].encode("Where is my parcel?")
    assert told.result("training")["trainable_parameters"] == sum(p.numel() for p in source[0].parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_the_named_layers_change(tiny: Path, finetuned: Finetuned, checkpointing: bool) -> None:
    order = finetune_order(
        tiny,
        max_steps=4,
        method="partial",
        trained_layers="layers.1.mlp, *.0.*_layernorm",
        learning_rate=0.01,
        gradient_checkpointing=checkpointing,
    )
    run, _ = finetuned(order)

    before, after = load_file(tiny / "model.safetensors"), made(run)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        *(f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
    }


def test_target_modules_may_be_patterns(tiny: Path, finetuned: Finetuned) -> None:
    run, _ = finetuned(finetune_order(tiny, evaluate=False, lora={"target_modules": "layers.1.*.up_proj, v_proj"}))

    adapted = {name.split(".layers.")[1].rsplit(".", 2)[0] for name in made(run)}
    assert adapted == {"1.mlp.up_proj", "0.self_attn.v_proj", "1.self_attn.v_proj"}


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_a_run_goes_on_from_its_checkpoint(tiny: Path, finetuned: Finetuned, method: str) -> None:
    order = finetune_order(tiny, max_steps=6, checkpoint_every=4, method=method, evaluate=False, learning_rate=0.01)
    whole, told = finetuned(order, "whole")

    again, later = finetuned(resumed(order, whole.run_dir, 4), "again")

    assert later.metric("loss") == told.metric("loss")[4:]
    one, other = made(whole), made(again)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"method": "partial", "trained_layers": "layers.9"}, r"trained_layers: 'layers\.9' meets no layer"),
        ({"lora": {"target_modules": "layers.9.*"}}, r"lora\.target_modules: 'layers\.9\.\*' is no layer"),
    ],
)
def test_names_that_meet_nothing_are_refused(
    tiny: Path, finetuned: Finetuned, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(RunFailed, match=complaint) as refused:
        finetuned(finetune_order(tiny, evaluate=False, **change))
    assert refused.value.reason == Reason.INVALID_INPUT
