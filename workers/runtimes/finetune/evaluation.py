"""How well a model does on held-out samples: loss per completion token, and the labels it answers with.

Changes nothing in the model. Knows nothing of training.
"""

import copy
import inspect
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers.cache_utils import DynamicCache, DynamicLayer

from workers.runtimes.finetune.samples import UNTRAINED, Sample


@dataclass(frozen=True)
class Score:
    """`loss`: mean nats per completion token. `accuracy` and `macro_f1` (0 to 1) exist for text/label rows only."""

    loss: float
    rows: int
    seconds: float
    accuracy: float | None = None
    macro_f1: float | None = None

    def values(self) -> dict[str, float | int]:
        figures = {"loss": self.loss, "accuracy": self.accuracy, "macro_f1": self.macro_f1, "rows": self.rows}
        return {name: value for name, value in figures.items() if value is not None}


def evaluate(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    labels: Sequence[str],
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Score:
    """Score the model on `samples`; `progress(rows done, rows)` after each batch. Greedy, so it repeats exactly."""
    start = time.monotonic()
    was_training = model.training
    model.eval()
    total_loss, total_tokens = 0.0, 0
    truths: list[str] = []
    answers: list[str | None] = []
    longest = max((len(tokenizer.encode(f" {label}", add_special_tokens=False)) for label in labels), default=0)
    with torch.no_grad():
        scorer = _Scorer(model, tokenizer, samples)
        done = 0
        for batch in _batches(samples, batch_size):
            loss, tokens = scorer.loss(batch)
            total_loss, total_tokens = total_loss + loss, total_tokens + tokens
            asked = [sample for sample in batch if sample.answer is not None]
            if asked and labels:
                truths += [str(sample.answer) for sample in asked]
                answers += [match_label(text, labels) for text in scorer.answers(asked, longest + 2)]
            done += len(batch)
            progress(done, len(samples))
    model.train(was_training)
    return Score(
        loss=total_loss / max(total_tokens, 1),
        rows=round(sum(sample.share for sample in samples)),
        seconds=time.monotonic() - start,
        accuracy=accuracy(truths, answers) if truths else None,
        macro_f1=macro_f1(truths, answers) if truths else None,
    )


def match_label(answer: str, labels: Sequence[str]) -> str | None:
    """The known label an answer names, whatever its case, spaces and punctuation: an answer that is a label or begins
    with one (the longest), else the only label it mentions, else None."""
    said = _normal(answer)
    known = {_normal(label): label for label in labels}
    begins = [plain for plain in known if said == plain or said.startswith(plain + " ")]
    if begins:
        return known[max(begins, key=len)]
    mentioned = [plain for plain in known if re.search(rf"\b{re.escape(plain)}\b", said)]
    return known[mentioned[0]] if len(mentioned) == 1 else None


def accuracy(truths: Sequence[str], answers: Sequence[str | None]) -> float:
    """Share of answers that are the true label."""
    return sum(truth == answer for truth, answer in zip(truths, answers, strict=True)) / len(truths)


def macro_f1(truths: Sequence[str], answers: Sequence[str | None]) -> float:
    """Mean over the labels that occur in `truths` of F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen 1979).

    An answer that is no label counts as a miss of its true label.
    """
    scores = []
    pairs = list(zip(truths, answers, strict=True))
    for label in sorted(set(truths)):
        hits = sum(truth == label and answer == label for truth, answer in pairs)
        wrong = sum((truth == label) != (answer == label) for truth, answer in pairs)
        scores.append(2 * hits / (2 * hits + wrong))
    return sum(scores) / len(scores)


class _Scorer:
    """A model and tokenizer that look at batches. What all prompts begin with is computed once (`_prefix`)."""

    def __init__(self, model: Any, tokenizer: Any, samples: Sequence[Sample]) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._prefix = common_prefix([sample.prompt_ids for sample in samples])
        if any(sample.input_ids[: len(self._prefix)] != self._prefix for sample in samples):
            self._prefix = []
        self._cache: Any = None
        if self._prefix:
            cache = model(input_ids=self._tensor([self._prefix]), use_cache=True).cache
            # Other kinds of memory (sliding windows, state spaces) can't be copied for every row of a batch.
            if type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers):
                self._cache = cache
            else:
                self._prefix = []

    def loss(self, batch: Sequence[Sample]) -> tuple[float, int]:
        """(sum of the negative log likelihoods in nats, number of completion tokens)."""
        skipped = len(self._prefix)
        ids, mask = self._inputs([sample.input_ids for sample in batch])
        labels = self._pad([sample.labels[skipped:] for sample in batch], UNTRAINED)
        # Completions end at the right edge, so the scores of the last `kept` positions are all that is needed.
        kept = int((labels.shape[1] - (labels != UNTRAINED).int().argmax(dim=1)).max()) + 1
        kept = min(kept, labels.shape[1])
        bare = self._model.get_base_model() if hasattr(self._model, "get_base_model") else self._model
        few = "logits_to_keep" in inspect.signature(bare.forward).parameters
        scores = self._model(
            input_ids=ids[:, skipped:],
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0)[:, skipped:],
            cache=self._memory(len(batch)),
            use_cache=bool(self._prefix),
            **({"logits_to_keep": kept} if few else {}),
        ).logits[:, -kept:][:, :-1]
        targets = labels[:, -kept:][:, 1:]
        wanted = targets != UNTRAINED
        return float(cross_entropy(scores[wanted].float(), targets[wanted], reduction="sum")), int(wanted.sum())

    def answers(self, batch: Sequence[Sample], max_new_tokens: int) -> list[str]:
        """What the model says to each prompt, greedily."""
        ids, mask = self._inputs([sample.prompt_ids for sample in batch])
        produced = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            cache=self._memory(len(batch)),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return list(self._tokenizer.batch_decode(produced[:, ids.shape[1] :], skip_special_tokens=True))

    def _inputs(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(token ids, attention mask): the prefix, then padding, then the rest of each row."""
        skipped = len(self._prefix)
        prefix = self._tensor([self._prefix] * len(rows)).long()
        rest = self._pad([row[skipped:] for row in rows], self._tokenizer.pad_token_id)
        mask = self._pad([[1] * (len(row) - skipped) for row in rows], 0)
        return torch.cat([prefix, rest], dim=1), torch.cat([torch.ones_like(prefix), mask], dim=1)

    def _memory(self, rows: int) -> Any:
        if self._cache is None:
            return None
        memory = copy.deepcopy(self._cache)
        memory.batch_repeat_interleave(rows)
        return memory

    def _pad(self, rows: list[list[int]], value: int) -> torch.Tensor:
        width = max(len(row) for row in rows)
        return self._tensor([[value] * (width - len(row)) + row for row in rows])

    def _tensor(self, rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor(rows, device=self._model.device)


def common_prefix(rows: Sequence[list[int]]) -> list[int]:
    """What all rows begin with, at least one token short of the shortest row."""
    if not rows:
        return []
    low, high = min(rows), max(rows)
    same = 0
    while same < min(len(low), len(high)) and low[same] == high[same]:
        same += 1
    return low[: max(0, min(same, min(len(row) for row in rows) - 1))]


def _batches(samples: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    """Batches of samples of like length, so that little is padding."""
    ordered = sorted(samples, key=lambda sample: len(sample.input_ids))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _normal(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))
