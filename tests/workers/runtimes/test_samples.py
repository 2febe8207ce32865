"""What of a row is trained: the completion, and only that."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.contract.order import DatasetInput
from workers.runtimes.base import RunFailed
from workers.runtimes.finetune.samples import UNTRAINED, Sample, make_sample, make_samples

END = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def plain_tokenizer(plain: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(plain)


def dataset(format: Any) -> DatasetInput:
    labels = ("bug", "refund") if format == "text_label" else ()
    return DatasetInput(name="d", format=format, train_uri="", sha256="", labels=labels)


def trained(sample: Sample, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in sample.labels if label != UNTRAINED]))


def untrained(sample: Sample, tokenizer: Any) -> str:
    pairs = zip(sample.input_ids, sample.labels, strict=True)
    return str(tokenizer.decode([token for token, label in pairs if label == UNTRAINED]))


CONVERSATION = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "First answer"},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "Second answer"},
]


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        ("messages", {"messages": CONVERSATION}, f"First answer{END}Second answer{END}"),
        ("messages", {"messages": [*CONVERSATION, CONVERSATION[0]]}, f"First answer{END}Second answer{END}"),
        ("prompt_completion", {"prompt": "Where is it?", "completion": "Here."}, f"Here.{END}"),
        ("text", {"text": "A whole text."}, f"A whole text.{END}"),
        ("text_label", {"text": "I want my money", "label": "refund"}, f"refund{END}"),
    ],
)
def test_only_the_completion_is_trained(tokenizer: Any, format: str, row: dict[str, Any], expected: str) -> None:
    sample = make_sample(row, dataset(format), tokenizer, 200)
    assert trained(sample, tokenizer) == expected
    for token, label in zip(sample.input_ids, sample.labels, strict=True):
        assert label in (token, UNTRAINED)


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        ("messages", {"messages": CONVERSATION[:2]}, f"First answer{END}"),
        ("prompt_completion", {"prompt": "Where is it? ", "completion": "Here."}, f"Here.{END}"),
        ("text", {"text": "A whole text."}, f"A whole text.{END}"),
        ("text_label", {"text": "I want my money", "label": "refund"}, f" refund{END}"),
    ],
)
def test_without_a_template_prompts_are_plain(
    plain_tokenizer: Any, format: str, row: dict[str, Any], expected: str
) -> None:
    sample = make_sample(row, dataset(format), plain_tokenizer, 200)
    assert trained(sample, plain_tokenizer) == expected
    assert "<|im_start|>" not in untrained(sample, plain_tokenizer)


def test_a_classification_prompt_names_the_classes_and_is_what_generation_starts_from(tokenizer: Any) -> None:
    sample = make_sample({"text": "It crashes", "label": "bug"}, dataset("text_label"), tokenizer, 200)
    prompt = tokenizer.decode(sample.prompt_ids)
    assert "bug, refund" in prompt
    assert "It crashes" in prompt
    assert prompt.endswith("assistant\n")
    assert sample.input_ids[: len(sample.prompt_ids)] == sample.prompt_ids
    assert sample.answer == "bug"


def test_a_template_that_rewrites_earlier_turns_trains_the_last_one(tokenizer: Any) -> None:
    tokenizer = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    tokenizer.chat_template = (  # earlier answers are shortened, as reasoning models' templates do
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last or m.role == 'user' else '...' }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    sample = make_sample({"messages": CONVERSATION}, dataset("messages"), tokenizer, 200)
    assert trained(sample, tokenizer) == f"Second answer{END}"


def test_a_long_prompt_loses_its_beginning_and_keeps_its_answer(tokenizer: Any) -> None:
    row = {"prompt": "much to read " * 50, "completion": "Yes."}
    sample = make_sample(row, dataset("prompt_completion"), tokenizer, 32)
    assert len(sample.input_ids) == len(sample.labels) == 32
    assert trained(sample, tokenizer) == f"Yes.{END}"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.integers(0, 120), context=st.integers(8, 64))
def test_a_long_text_becomes_several_samples_and_each_token_is_foretold_once(
    tokenizer: Any, words: int, context: int
) -> None:
    text = " ".join(f"word{number}" for number in range(words))
    (whole,) = make_samples([{"text": text}], dataset("text"), tokenizer, 10_000)
    parts = make_samples([{"text": text}], dataset("text"), tokenizer, context)
    foretold = [label for part in parts for label in part.labels[1:]]
    assert foretold == whole.input_ids[1:]
    assert UNTRAINED not in foretold
    assert all(len(part) == context for part in parts[:-1])
    assert len(parts[-1]) <= context
    assert sum(part.share for part in parts) == pytest.approx(1)
    for one, other in itertools.pairwise(parts):  # what comes next is foretold of the token before it
        assert other.input_ids[0] == one.input_ids[-1]


@pytest.mark.parametrize(
    ("format", "row", "complaint"),
    [
        ("text", {"txt": "x"}, "row 2 has no 'text'"),
        ("messages", {"messages": CONVERSATION[:1]}, "row 2: no message has the role assistant"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tokenizer: Any, format: str, row: dict[str, Any], complaint: str) -> None:
    good = {"text": "fine", "messages": CONVERSATION}
    with pytest.raises(RunFailed, match=complaint):
        make_samples([good, row], dataset(format), tokenizer, 100)
