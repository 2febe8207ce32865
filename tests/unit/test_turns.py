"""Rows of preferences: text or messages, one sentence for what is wrong with a row."""

from typing import Any

import pytest

from portal.catalog import lengths, rows

USER = {"role": "user", "content": "Where is it?"}
YES, NO = {"role": "assistant", "content": "Here."}, {"role": "assistant", "content": "No."}


def test_text_stays_text_and_messages_stay_messages() -> None:
    row = {"prompt": "Where?", "chosen": "Here.", "rejected": "No.", "score": 3}
    assert rows.canonical(row, "preference") == {"prompt": "Where?", "chosen": "Here.", "rejected": "No."}
    parts = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}
    assert rows.canonical(parts, "preference") == parts


@pytest.mark.parametrize("prompt", ["Where is it?", [USER]])
def test_answers_that_repeat_the_prompt_are_cut(prompt: Any) -> None:
    row = {"prompt": prompt, "chosen": [USER, YES], "rejected": "No."}
    assert rows.judged(row, "preference") == {"prompt": [USER], "chosen": [YES], "rejected": [NO]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rejected": ""}, "'rejected' is missing or empty"),
        ({"rejected": []}, "'rejected' is an empty list"),
        ({"chosen": "  "}, "'chosen' is blank"),
        ({"chosen": 3}, "'chosen' is int, neither text nor a list of messages"),
        ({"rejected": "Here."}, "'chosen' and 'rejected' are the same, so there is nothing to prefer"),
        (
            {"chosen": [{"role": "bot", "content": "x"}]},
            "message 1 of 'chosen' has no role of system, user or assistant",
        ),
        ({"chosen": [YES, {"role": "assistant"}]}, "message 2 of 'chosen' has no content"),
        ({"chosen": [USER]}, "the last message of 'chosen' is not the assistant's"),
        ({"prompt": [USER, YES]}, "the prompt's last message is the assistant's, so there is nothing to answer"),
        ({"chosen": "a\0b"}, "it holds a NUL or half of a surrogate pair, which is not text"),
    ],
)
def test_a_bad_row_says_why(change: dict[str, Any], said: str) -> None:
    assert rows.judged({"prompt": "Where?", "chosen": "Here.", "rejected": "No.", **change}, "preference") == said


def test_the_format_is_found_also_beside_other_columns() -> None:
    row = {"prompt": "Where?", "chosen": "Here.", "rejected": "No.", "messages": [USER, YES]}
    assert rows.detect([(1, row)], "pairs.jsonl", "file") == "preference"


def test_a_pair_is_as_long_as_its_longer_answer() -> None:
    assert lengths.text_of({"prompt": [USER], "chosen": [YES], "rejected": [NO]}) == "Where is it?\nHere."
