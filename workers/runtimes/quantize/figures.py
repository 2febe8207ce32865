"""What a quantized model is judged by, before and after: perplexity and pace. Changes nothing in the model.

Knows nothing of how it was quantized.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

PROMPT_TOKENS, NEW_TOKENS = 32, 48
"""Of the one request that the pace is of."""


def perplexity(model: Any, windows: Sequence[Sequence[int]], progress: Callable[[int, int], None]) -> float:
    """exp of the mean negative log likelihood, in nats, of every token but each sequence's first."""
    total, count = 0.0, 0
    for done, window in enumerate(windows, start=1):
        ids = torch.tensor([window], device=model.device)
        with torch.inference_mode():
            scores = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            total += float(cross_entropy(scores, ids[0, 1:], reduction="sum"))
        count += len(window) - 1
        progress(done, len(windows))
    return math.exp(total / count)


def tokens_per_s(model: Any, prompt: Sequence[int]) -> float:
    """Of one greedy answer, its prompt's reading included; the kernels are warmed up by a short one."""
    ids = torch.tensor([prompt[:PROMPT_TOKENS]], device=model.device)
    _answer(model, ids, 2)
    began = time.monotonic()
    made = _answer(model, ids, NEW_TOKENS)
    return made / (time.monotonic() - began)


def _answer(model: Any, ids: torch.Tensor, tokens: int) -> int:
    """How many tokens it made."""
    produced = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=0,
    )
    return int(produced.shape[1] - ids.shape[1])
