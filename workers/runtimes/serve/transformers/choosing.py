"""From the scores of a step to the next token of each answer, each by settings and a seed of its own.

An answer draws from its own generator, one number a token: what others are asked at the same time changes nothing.
Knows nothing of models or of text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workers.runtimes.serve.engine import Ask

LIKELIEST = 512
"""Tokens among which top-p looks first: sorting all of a vocabulary for each token would take longer than the model."""


class Drawing:
    """The seed of one answer at work."""

    def __init__(self, ask: Ask) -> None:
        self.temperature, self.top_p, self.logprobs = ask.temperature, ask.top_p, ask.logprobs
        self._generator = torch.Generator().manual_seed(ask.seed)

    def number(self) -> float:
        """The next one, from 0 to below 1."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


@dataclass(frozen=True)
class Chosen:
    """A token's number; where it was asked for, its logarithm of likelihood and the likeliest tokens with theirs."""

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


def choose(
    scores: torch.Tensor, drawings: Sequence[Drawing], allowed: Sequence[torch.Tensor | None] = ()
) -> list[Chosen]:
    """`scores`: (answers, vocabulary). `allowed`: of each answer, False where a grammar forbids a token."""
    scores = scores.float()
    for row, tokens_allowed in enumerate(allowed):
        if tokens_allowed is not None:
            scores[row].masked_fill_(~tokens_allowed.to(scores.device), float("-inf"))
    tokens: list[int] = scores.argmax(-1).tolist()
    for row, drawing in enumerate(drawings):
        if drawing.temperature > 0:
            tokens[row] = _drawn(scores[row], drawing)
    return [_with_logprobs(scores[row], tokens[row], drawing.logprobs) for row, drawing in enumerate(drawings)]


def _drawn(scores: torch.Tensor, drawing: Drawing) -> int:
    """Nucleus sampling (arXiv:1904.09751): the number drawn is sought in the likelihoods added up."""
    likely, order = (scores / drawing.temperature).softmax(-1), None
    if drawing.top_p < 1:
        top, order = likely.topk(min(LIKELIEST, len(likely)))
        if float(top.sum()) < drawing.top_p:  # the nucleus is larger
            top, order = likely.sort(descending=True)
        # A token is in the nucleus when those before it don't fill it; the first always is.
        before = top.double().cumsum(0) - top
        likely = top[: max(1, int((before < drawing.top_p).sum()))]
    summed = likely.double().cumsum(0)
    at = int(torch.searchsorted(summed, summed[-1] * drawing.number(), right=True))
    at = min(at, len(likely) - 1)
    return at if order is None else int(order[at])


def _with_logprobs(scores: torch.Tensor, token: int, wanted: int | None) -> Chosen:
    """By the model's own scores, before temperature and top-p."""
    if wanted is None:
        return Chosen(token)
    logs = scores.log_softmax(-1)
    values, places = logs.topk(min(wanted, logs.shape[-1])) if wanted else (logs[:0], logs[:0])
    top = tuple((int(place), float(value)) for place, value in zip(places, values, strict=True))
    return Chosen(token, float(logs[token]), top)
