"""The figures of an evaluation."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.runtimes.conftest import STARTER, STARTER_LABELS
from workers.contract.order import DatasetInput, ModelInput
from workers.runtimes.finetune.evaluation import accuracy, common_prefix, evaluate, macro_f1, match_label
from workers.runtimes.finetune.samples import make_samples
from workers.runtimes.finetune.shards import find_shards, read_rows
from workers.runtimes.models import load_model

LABELS = ("bug", "feature request", "feature", "Refund")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("bug", "bug"),
        (" Bug.\n", "bug"),
        ("REFUND!", "Refund"),
        ("feature_request", "feature request"),
        ("feature please", "feature"),
        ("I think it is a bug", "bug"),
        ("bug or Refund", "bug"),
        ("either a bug or a refund", None),
        ("debugging", None),
        ("", None),
    ],
)
def test_an_answer_is_matched_to_a_known_label(answer: str, label: str | None) -> None:
    assert match_label(answer, LABELS) == label


def test_macro_f1_weighs_every_label_alike() -> None:
    truths = ["a", "a", "a", "b"]
    answers = ["a", "a", None, "a"]
    # a: TP 2, FP 1, FN 1 -> 4/6; b: TP 0 -> 0
    assert macro_f1(truths, answers) == pytest.approx((4 / 6 + 0) / 2)
    assert accuracy(truths, answers) == 0.5
    assert macro_f1(truths, truths) == 1.0


def test_the_common_prefix_leaves_every_row_a_token() -> None:
    assert common_prefix([[1, 2, 3, 4], [1, 2, 5]]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2]]) == [1]
    assert common_prefix([[1], [2]]) == []
    assert common_prefix([]) == []


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> tuple[Any, Any]:
    return load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")


def test_the_loss_is_the_mean_over_completion_tokens(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    dataset = DatasetInput(name="d", format="text_label", train_uri="", sha256="", labels=STARTER_LABELS)
    samples = make_samples(read_rows(find_shards(str(STARTER / "test.jsonl")), 6), dataset, tokenizer, 200)
    seen: list[tuple[int, int]] = []
    score = evaluate(model, tokenizer, samples, STARTER_LABELS, 4, lambda done, total: seen.append((done, total)))

    total = count = 0.0
    for sample in samples:  # one by one: no padding, no shared prefix
        scores = model(input_ids=torch.tensor([sample.input_ids])).logits[0].log_softmax(-1)
        for position, label in enumerate(sample.labels[1:]):
            if label >= 0:
                total, count = total - float(scores[position, label]), count + 1
    assert score.loss == pytest.approx(total / count, rel=1e-4)
    assert score.loss == pytest.approx(math.log(512), rel=0.1)  # random weights know nothing: one of 512 tokens
    assert score.rows == 6
    assert seen == [(4, 6), (6, 6)]
    assert 0 <= (score.macro_f1 or 0) <= 1


def test_a_text_has_a_loss_and_no_accuracy(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    dataset = DatasetInput(name="d", format="text", train_uri="", sha256="")
    samples = make_samples([{"text": "Where is my parcel?"}, {"text": "Hello"}], dataset, tokenizer, 100)
    values = evaluate(model, tokenizer, samples, (), 8, lambda done, total: None).values()
    assert set(values) == {"loss", "rows"}
