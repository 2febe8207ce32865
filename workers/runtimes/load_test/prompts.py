"""What is asked: the lines that were given, the rows of a dataset, or a built-in set of mixed lengths.

Knows nothing of who is asked, nor of tokens.
"""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from workers.contract.load_test import LoadTestSpec
from workers.contract.order import DatasetInput
from workers.contract.prompts import label_messages
from workers.runtimes.base import invalid, local_path

Messages = list[dict[str, Any]]

MOST_ROWS = 1000
"""Of a dataset: the first ones."""

PASSAGE = (
    "The parcel left the depot in the morning and was to arrive by noon, but the bridge over the river was closed "
    "after the storm, so the driver took the road through the hills. There the van had to wait behind a herd of sheep, "
    "then at a railway crossing, and at last for a tractor that had lost its trailer. By three in the afternoon the "
    "customer had called twice, the depot had promised a new time twice, and neither of them knew where the parcel "
    "was. The driver, without a signal between the hills, could tell nobody. "
)
SHORT = (
    "Hello!",
    "What is the capital of France?",
    "Name three fruits that are red.",
    "Write a haiku about the sea.",
    "Translate to German: Where is the station?",
)
MIDDLE = (
    "A customer writes that the invoice of last month was paid twice and asks for the money back. Write a short and "
    "friendly reply that says what happens next and when.",
    "Explain to somebody who has never programmed what a loop is, with one example from a kitchen and one from an "
    "office, in no more than six sentences.",
    f"Say in one sentence what went wrong here. {PASSAGE}",
    f"List who is waiting for whom in this story, one a line. {PASSAGE}",
)
LONG = (
    f"Summarise the following in two sentences. {PASSAGE * 3}",
    f"Continue this report in the same tone. {PASSAGE * 5}",
)
BUILT_IN = tuple(prompt for group in zip(SHORT, (*MIDDLE, LONG[0]), strict=True) for prompt in group) + LONG[1:]
"""From a word to some 500, short and long by turns, so that prompts of every length are under way at a time."""


def conversations(spec: LoadTestSpec, dataset: DatasetInput | None) -> tuple[list[Messages], str]:
    """What to ask in turn, each as chat messages, and what that is in words. Raises RunFailed."""
    if dataset is not None:
        rows = list(islice(_rows(dataset), MOST_ROWS))
        if not rows:
            raise invalid(f"dataset: {dataset.name!r} has no rows to ask; name another one, or give prompts.")
        return rows, f"{len(rows)} rows of dataset {dataset.name}"
    lines = spec.lines or BUILT_IN
    which = "given" if spec.lines else "built-in"
    return [_said(line) for line in lines], f"{len(lines)} {which} prompt{'s' if len(lines) > 1 else ''}"


def size(messages: Messages) -> int:
    """Characters."""
    return sum(len(str(message.get("content") or "")) for message in messages)


def _rows(dataset: DatasetInput) -> Iterator[Messages]:
    """Of the test split where there is one, which the model has not learnt by heart."""
    path = local_path(dataset.test_uri or dataset.train_uri, "dataset")
    if path.is_dir():
        raise invalid(f"dataset: {dataset.name!r} lies in shards, which a load test doesn't read; name another one.")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(filter(str.strip, lines), start=1):
            try:
                yield _asked(json.loads(line), dataset)
            except (KeyError, TypeError, ValueError) as error:
                raise invalid(
                    f"dataset: row {number} is not as format {dataset.format} needs it ({error!r})."
                ) from error


def _asked(row: dict[str, Any], dataset: DatasetInput) -> Messages:
    """The conversation up to where the model is to answer."""
    if dataset.format == "text_label":
        return label_messages(str(row["text"]), dataset.labels)
    if dataset.format == "text":
        return _said(str(row["text"]))
    asked = row["messages"] if dataset.format == "messages" else row["prompt"]
    if isinstance(asked, str):
        return _said(asked)
    answers = [at for at, message in enumerate(asked) if message["role"] == "assistant"]
    return list(asked[: answers[-1]] if dataset.format == "messages" and answers and answers[-1] else asked)


def _said(text: str) -> Messages:
    return [{"role": "user", "content": text}]
