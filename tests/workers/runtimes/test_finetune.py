"""A fine-tune from order to adapter, on a tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_model import CONTEXT
from tests.workers.runtimes.conftest import Child, Told, finetune_order, write_rows
from workers.contract.order import AdapterInput, ModelInput
from workers.contract.reasons import Reason
from workers.runtimes.base import Run, RunFailed
from workers.runtimes.models import add_adapter, load_model

Finetuned = Callable[..., tuple[Run, Told]]


def test_it_learns_and_leaves_an_adapter_with_a_manifest(tiny: Path, finetuned: Finetuned) -> None:
    run, told = finetuned(finetune_order(tiny, max_steps=12, seed=5))

    assert told.phases() == [
        "loading model",
        "evaluating before",
        "training",
        "evaluating after",
        "saving adapter",
    ]
    losses = told.metric("loss")
    assert len(losses) == 12
    assert [event.step for event in told.of("metric")] == list(range(1, 13))
    assert all(told.metric(name) for name in ("grad_norm", "learning_rate", "tokens_per_s", "epoch"))
    steps = [event for event in told.of("progress") if event.unit == "steps"]
    assert [(event.done, event.total) for event in steps] == [(step, 12) for step in range(13)]
    assert steps[-1].eta_s == 0
    rows = [event for event in told.of("progress") if event.unit == "rows"]
    assert [(event.done, event.total) for event in rows] == [(4, 4), (4, 4)]

    before, after, training = told.result("test_before"), told.result("test_after"), told.result("training")
    assert after["loss"] < before["loss"]
    assert before["rows"] == 4
    assert {"accuracy", "macro_f1"} <= set(before)
    assert (training["loss_first"], training["loss_last"], training["steps"]) == (losses[0], losses[-1], 12)
    assert training["tokens"] > 0

    weights = load_file(run.output_dir / "adapter" / "adapter_model.safetensors")
    assert sum(weight.numel() for weight in weights.values()) == training["trainable_parameters"]
    manifest = json.loads((run.output_dir / "manifest.json").read_text())
    assert manifest["spec"]["max_steps"] == 12
    assert manifest["seeds"] == {"model": 5, "data": 5}
    assert manifest["dataset"]["sha256"] == "5eed"
    assert len(manifest["model"]["sha256"]) == 64
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["ds_config"] is None
    numerics = told.result("numerics")
    assert numerics["words"] == "fp32, sdpa attention, fused AdamW"
    assert manifest["results"] == {
        "test_before": before, "test_after": after, "training": training, "numerics": numerics,
    }  # fmt: skip
    left = [path for path in run.output_dir.rglob("*") if path.is_file()]
    assert {path.name for path in left} == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    assert not any(str(tiny) in path.read_text() for path in left if path.suffix == ".json")

    model, tokenizer = load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")
    prompt = tokenizer("Where is my parcel?", return_tensors="pt")
    base = model(**prompt).logits
    tuned = add_adapter(model, AdapterInput(name="tuned", uri=str(run.output_dir / "adapter")))
    assert not torch.equal(base, tuned(**prompt).logits)


def test_the_seed_decides_the_losses(tiny: Path, finetuned: Finetuned) -> None:
    losses = [
        finetuned(finetune_order(tiny, seed=seed, evaluate=False, lora={"dropout": 0.1}), name)[1].metric("loss")
        for seed, name in ((1, "first"), (1, "again"), (2, "other"))
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


TURNS = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]


@pytest.mark.parametrize("model", ["tiny", "plain"])
@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("messages", {"messages": TURNS}),
        ("prompt_completion", {"prompt": "Where is it? ", "completion": "On its way."}),
        ("text", {"text": "It is on its way to you."}),
    ],
)
def test_every_format_trains(
    request: pytest.FixtureRequest, tmp_path: Path, finetuned: Finetuned, model: str, format: str, row: dict[str, Any]
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [row] * 8)
    data = {"name": "d", "format": format, "train_uri": str(path), "test_uri": str(path), "sha256": "0"}
    _, told = finetuned(finetune_order(request.getfixturevalue(model), data, max_steps=12, learning_rate=0.005))
    assert told.metric("loss")[-1] < told.metric("loss")[0]
    assert told.result("test_after")["loss"] < told.result("test_before")["loss"]
    assert set(told.result("test_after")) == {"loss", "rows"}


def test_epochs_accumulation_checkpointing_packing_and_logging_are_honoured(tiny: Path, finetuned: Finetuned) -> None:
    order = finetune_order(
        tiny,
        max_steps=0,
        epochs=0.5,
        micro_batch=8,
        gradient_accumulation=4,
        gradient_checkpointing=True,
        log_every=2,
        evaluate=False,
        schedule="constant",
        warmup_ratio=0.5,
        lora={"target_modules": "q_proj, v_proj", "rank": 2},
    )
    run, told = finetuned(order)
    assert told.result("training")["steps"] == 5  # 320 rows, half of them, 32 a step
    assert [event.step for event in told.of("metric")] == [1, 2, 4]
    assert told.metric("learning_rate")[0] == 0  # warming up
    assert told.phases() == ["loading model", "training", "saving adapter"]
    weights = load_file(run.output_dir / "adapter" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in weights} == {"q_proj", "v_proj"}
    assert {min(weight.shape) for weight in weights.values()} == {2}


def test_packed_rows_share_a_sequence(tiny: Path, tmp_path: Path, finetuned: Finetuned) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": f"Where is parcel {number}?"} for number in range(40)])
    data = {"name": "d", "format": "text", "train_uri": str(path), "sha256": "0"}
    _, told = finetuned(finetune_order(tiny, data, max_steps=0, epochs=1, packing=True))
    assert 1 <= told.result("training")["steps"] < 40 / 2
    assert told.phases() == ["loading model", "training", "saving adapter"]  # no test split, nothing to evaluate on


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"context_length": CONTEXT + 1}, f"context_length: {CONTEXT + 1} tokens is beyond this model's {CONTEXT}"),
        ({"precision": "fp16"}, "precision: fp16 needs a GPU"),
        ({"lora": {"target_modules": "q_proj,nope"}}, "lora.target_modules: 'nope' is no layer"),
        ({"lora": {"target_modules": "lm_head"}}, "lora.target_modules: 'lm_head' is no layer"),
        (
            {"deepspeed": {"zero_stage": 3, "offload_optimizer": "nvme", "nvme_path": "/etc"}},
            "deepspeed.nvme_path: '/etc' is outside this node's allowed roots",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    tiny: Path, finetuned: Finetuned, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(RunFailed, match=complaint) as refused:
        finetuned(finetune_order(tiny, evaluate=False, **change))
    assert refused.value.reason == Reason.INVALID_INPUT


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_deepspeed_trains_like_the_plain_trainer(tiny: Path, tmp_path: Path, finetuned: Finetuned, stage: int) -> None:
    _, plain = finetuned(finetune_order(tiny))
    order = finetune_order(tiny, deepspeed={"zero_stage": stage, "offload_optimizer": stage == 2})
    child = Child(tmp_path / "zero", order, PATH="/nonexistent")  # no compiler is needed
    assert child.wait(240) == 0, child.log()

    told = child.told()
    assert told.metric("loss")[0] == pytest.approx(plain.metric("loss")[0], rel=1e-5)
    assert told.metric("loss")[-1] == pytest.approx(plain.metric("loss")[-1], rel=1e-2)
    assert told.result("test_before") == pytest.approx(plain.result("test_before"), rel=1e-5)
    assert told.result("training")["trainable_parameters"] == plain.result("training")["trainable_parameters"]
    config = json.loads((child.run_dir / "output" / "ds_config.json").read_text())
    assert config["zero_optimization"]["stage"] == stage
    assert json.loads((child.run_dir / "output" / "manifest.json").read_text())["ds_config"] == config
    weights = load_file(child.run_dir / "output" / "adapter" / "adapter_model.safetensors")
    assert any(weight.abs().sum() > 0 for name, weight in weights.items() if "lora_B" in name)
