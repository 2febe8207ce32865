"""Preference tuning: a chosen answer becomes likelier than a rejected one, measured against the model as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.workers.runtimes.conftest import Told, finetune_order, write_rows
from tests.workers.runtimes.test_checkpoints import losses, resumed
from tests.workers.runtimes.test_methods import made
from tests.workers.runtimes.test_ranks import TWO, carried_out
from workers.contract.reasons import Reason
from workers.runtimes.base import Run, RunFailed
from workers.runtimes.finetune.pairs import make_pair

Finetuned = Callable[..., tuple[Run, Told]]
ANSWERS = {"chosen": "It is on its way, thank you.", "rejected": "No."}


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{"prompt": f"Where is parcel {number}?", **ANSWERS} for number in range(8)]
    told = [{"role": "user", "content": "Where is it?"}]
    rows.append({"prompt": told, **{k: [{"role": "assistant", "content": v}] for k, v in ANSWERS.items()}})
    path = str(write_rows(tmp_path / "pairs.jsonl", rows))
    return {"name": "pairs", "format": "preference", "sha256": "0", "train_uri": path, "test_uri": path}


def preferring(tiny: Path, pairs: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return finetune_order(tiny, pairs, **{"objective": "dpo", "max_steps": 6, "eval_limit": 9, **spec})


def test_the_chosen_answers_are_preferred_afterwards(tiny: Path, finetuned: Finetuned, pairs: dict[str, Any]) -> None:
    _, told = finetuned(preferring(tiny, pairs))

    before, after = told.result("test_before"), told.result("test_after")
    assert before["reward_accuracy"] == 0.5  # the model is its own reference: all are ties
    assert before["loss"] == pytest.approx(0.6931, abs=1e-4)  # -log(sigmoid(0))
    assert after["reward_accuracy"] == 1.0
    assert after["loss"] < before["loss"]
    assert after["reward_margin"] > 0
    for name in ("chosen", "rejected", "accuracies", "margins"):
        assert len(told.metric(f"rewards/{name}")) == 6
    assert told.metric("rewards/margins")[-1] > told.metric("rewards/margins")[0]


def test_a_whole_model_is_measured_against_a_copy_of_what_it_was(
    tiny: Path, finetuned: Finetuned, pairs: dict[str, Any]
) -> None:
    spec = {"method": "full", "dpo": {"loss_type": "ipo", "beta": 0.5}, "learning_rate": 0.001}
    run, told = finetuned(preferring(tiny, pairs, **spec))

    assert told.result("test_before")["loss"] == pytest.approx(1.0)  # (0 - 1 / (2 * 0.5))^2
    assert told.result("test_after")["reward_accuracy"] == 1.0
    assert "model.embed_tokens.weight" in made(run)


def test_it_goes_on_from_a_checkpoint_to_the_bit(tiny: Path, finetuned: Finetuned, pairs: dict[str, Any]) -> None:
    order = preferring(tiny, pairs, checkpoint_every=3, evaluate=False, data={"batching": "by_length"})
    whole, told = finetuned(order, "whole")
    again, later = finetuned(resumed(order, whole.run_dir, 3), "again")

    assert losses(later) == {step: values for step, values in losses(told).items() if step > 3}
    one, other = made(whole), made(again)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"method": "full", "learning_rate": 0.001, "deepspeed": {"zero_stage": 2}},
    ],
    ids=["adapters", "whole_zero_2"],
)
def test_two_processes_prefer_as_one_does(
    tiny: Path, tmp_path: Path, finetuned: Finetuned, spec: dict[str, Any]
) -> None:
    """Adapters have the base for a reference, the whole model a second one, which DeepSpeed is given as well."""
    rows = [
        {"prompt": f"Where is parcel {number}?", "chosen": "It is on its way. " * (1 + number % 3), "rejected": "No."}
        for number in range(8)
    ]
    path = str(write_rows(tmp_path / "pairs.jsonl", rows))
    pairs = {"name": "pairs", "format": "preference", "sha256": "0", "train_uri": path, "test_uri": path}
    order = preferring(tiny, pairs, micro_batch=2, eval_limit=4, resources={"devices": 2}, **spec)
    child = carried_out({**order, "devices": TWO}, tmp_path / "two")
    alone = {name: value for name, value in spec.items() if name != "deepspeed"}
    _, one = finetuned(preferring(tiny, pairs, micro_batch=4, eval_limit=4, **alone), "one")

    told = child.told()
    assert told.metric("loss") == pytest.approx(one.metric("loss"), rel=1e-4)
    assert told.metric("loss")[-1] < told.metric("loss")[0]  # else equal curves show nothing
    for name in ("chosen", "rejected", "margins"):
        assert told.metric(f"rewards/{name}") == pytest.approx(one.metric(f"rewards/{name}"), rel=1e-3, abs=1e-4)
    for scored in ("test_before", "test_after"):
        assert told.result(scored) == pytest.approx(one.result(scored), rel=1e-3, abs=1e-4)
    assert told.phases() == one.phases()  # each thing is said once


def test_streamed_pairs_train(tiny: Path, finetuned: Finetuned, pairs: dict[str, Any]) -> None:
    _, told = finetuned(preferring(tiny, pairs, evaluate=False, data={"streaming": "on", "workers": 0}))
    assert told.metric("rewards/margins")[-1] > 0


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_an_objective_that_the_rows_are_not_for_is_refused(
    tiny: Path, finetuned: Finetuned, pairs: dict[str, Any], objective: str
) -> None:
    dataset = pairs if objective == "sft" else None
    with pytest.raises(RunFailed, match=f"objective: {objective} learns from rows of .*; use objective ") as refused:
        finetuned(finetune_order(tiny, dataset, objective=objective))
    assert refused.value.reason == Reason.INVALID_INPUT


@pytest.mark.parametrize("chat", [True, False])
def test_a_pair_is_two_answers_to_the_same_tokens(tiny: Path, plain: Path, chat: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny if chat else plain)
    pair = make_pair({"prompt": "Where is it?", **ANSWERS}, tokenizer, 200)

    asked, chosen, rejected = map(tokenizer.decode, (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids))
    assert asked.endswith("<|im_start|>assistant\n" if chat else "Where is it?")
    assert (chosen, rejected) == (f"{ANSWERS['chosen']}<|im_end|>", f"{ANSWERS['rejected']}<|im_end|>")


def test_a_long_prompt_loses_its_beginning_and_a_long_answer_its_end(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    short = make_pair({"prompt": "word " * 200, **ANSWERS}, tokenizer, 40)
    assert len(short) == 40
    assert tokenizer.decode(short.chosen_ids) == f"{ANSWERS['chosen']}<|im_end|>"
    long = make_pair({"prompt": "Where?", "chosen": "word " * 200, "rejected": "No."}, tokenizer, 40)
    assert (len(long), len(long.prompt_ids)) == (40, 1)


def test_answers_that_are_the_same_are_refused(tiny: Path) -> None:
    row = {"prompt": "Where?", "chosen": "Here.", "rejected": "Here."}
    with pytest.raises(RunFailed, match="nothing to prefer"):
        make_pair(row, AutoTokenizer.from_pretrained(tiny), 100)
