"""What a model is calibrated on, and what its perplexity is taken of: rows of a dataset, or a built-in text.

The built-in text is Python's own language reference, English prose with code, which every node has. A part of it, and
a dataset's test split, is held out. Knows nothing of what is done with the tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pydoc_data.topics import topics
from random import Random
from typing import Any

from workers.contract.order import DatasetInput
from workers.contract.quantize import QuantizeSpec
from workers.runtimes.base import invalid
from workers.runtimes.finetune.pairs import Pair
from workers.runtimes.finetune.samples import Row, make_samples
from workers.runtimes.finetune.shards import find_shards, read_rows

HELD_OUT = 5
"""Every fifth topic of the built-in text."""
MEASURED_TOKENS = 8192
"""Of the held-out text, at most."""

Ids = list[int]


@dataclass(frozen=True)
class Text:
    """Sequences of equal length, and what they are in words."""

    windows: list[Ids]
    words: str


def calibration(spec: QuantizeSpec, dataset: DatasetInput | None, tokenizer: Any) -> Text:
    """At most `samples` sequences, chosen by the seed. Raises RunFailed where there isn't one."""
    random = Random(spec.seed)  # noqa: S311 - to be repeated, not to be secret
    wanted = spec.samples * spec.sequence_length
    if dataset is None:
        name, ids = "a built-in text", _joined(_topics(held_out=False), tokenizer)
    else:
        rows = read_rows(find_shards(dataset.train_uri, field="dataset.train_uri"))
        random.shuffle(rows)
        name, ids = f"dataset {dataset.name}", list(islice(_of_rows(rows, dataset, tokenizer, spec), wanted))
    windows = _windows(ids, spec.sequence_length, name)
    random.shuffle(windows)
    windows = windows[: spec.samples]
    return Text(windows, f"{_counted(windows)} of {name}")


def held_out(spec: QuantizeSpec, dataset: DatasetInput | None, tokenizer: Any) -> Text:
    """The test split's beginning; the built-in text's where there is none. Raises RunFailed where it is too short."""
    if dataset is None or not dataset.test_uri:
        name, ids = "a held-out built-in text", _joined(_topics(held_out=True), tokenizer)
    else:
        rows = read_rows(find_shards(dataset.test_uri, field="dataset.test_uri"))
        name = f"the test split of dataset {dataset.name}"
        ids = list(islice(_of_rows(rows, dataset, tokenizer, spec), max(MEASURED_TOKENS, spec.sequence_length)))
    windows = _windows(ids, spec.sequence_length, name)
    windows = windows[: max(1, MEASURED_TOKENS // spec.sequence_length)]
    return Text(windows, f"{_counted(windows)} of {name}")


def _topics(*, held_out: bool) -> list[str]:
    return [topics[name] for place, name in enumerate(sorted(topics)) if (place % HELD_OUT == 0) == held_out]


def _joined(texts: Iterable[str], tokenizer: Any) -> Ids:
    encoded = (tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts)
    return list(chain.from_iterable(encoded))


def _of_rows(rows: Sequence[Row], dataset: DatasetInput, tokenizer: Any, spec: QuantizeSpec) -> Iterator[int]:
    """Row after row as it would be trained on; of a pair of answers the chosen one."""
    for row in rows:
        for sample in make_samples([row], dataset, tokenizer, spec.sequence_length):
            yield from sample.prompt_ids + sample.chosen_ids if isinstance(sample, Pair) else sample.input_ids


def _windows(ids: Ids, length: int, name: str) -> list[Ids]:
    found = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    if not found:
        raise invalid(f"sequence_length: {name} has {len(ids)} tokens, too few for one of {length}; use fewer.")
    return found


def _counted(windows: Sequence[Ids]) -> str:
    return f"{len(windows)} × {len(windows[0])} tokens"
