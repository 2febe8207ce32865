"""One step over many answers: their next tokens in, the scores of the token after each out.

`Together` reads all of them in one forward pass, with keys and values in slots. `Apart` reads one answer after the
other with the library's own cache: for models whose attention can't be batched so. Knows nothing of how a token is
chosen.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from transformers import DynamicCache

from workers.runtimes.serve.transformers.attention import NAME, Segment, Step
from workers.runtimes.serve.transformers.slots import Slots

CHECKED = (7, 4)
"""Tokens of the prompts that a model is tried out with."""
CLOSE, CLOSE_IN_HALF = 1e-3, 0.1
"""How far scores may be from those of a plain forward pass, as a share of the largest: in fp32; in fewer bits."""


class Reading(NamedTuple):
    """Tokens of the answer in `slot` that it holds none of yet, after `start` that it holds."""

    slot: int
    start: int
    tokens: Sequence[int]


class Forward(Protocol):
    """How a model reads. `keeps`: a slot still holds what was moved out of it."""

    keeps: bool

    def __call__(self, readings: Sequence[Reading]) -> torch.Tensor:
        """(readings, vocabulary): the scores after each one's last token. Those of one token come first, and lie in
        slots 0, 1, 2 …"""

    def move(self, source: int, target: int, tokens: int) -> None:
        """What `source` holds is in `target` from now on."""


class Together:
    """All in one pass."""

    keeps = True

    def __init__(self, model: Any, slots: int, context_length: int) -> None:
        self._model, self._slots = model, Slots(slots, context_length)
        model.set_attn_implementation(NAME)

    @property
    def token_bytes(self) -> int:
        return self._slots.token_bytes

    def __call__(self, readings: Sequence[Reading]) -> torch.Tensor:
        segments = [Segment(reading.slot, reading.start, len(reading.tokens)) for reading in readings]
        single = next((at for at, each in enumerate(segments) if each.count > 1 or each.slot != at), len(segments))
        device = self._model.device
        step = Step(self._slots, segments, single, device)
        ends = torch.tensor([segment.count for segment in segments]).cumsum(0) - 1
        tokens = torch.tensor([token for reading in readings for token in reading.tokens], device=device)
        answer = self._model(
            input_ids=tokens[None],
            position_ids=step.positions[None],
            use_cache=False,
            logits_to_keep=ends.to(device),
            step=step,
        )
        return answer.logits[0]

    def move(self, source: int, target: int, tokens: int) -> None:
        self._slots.move(source, target, tokens)


class Apart:
    """One after the other."""

    keeps, token_bytes = False, 0

    def __init__(self, model: Any) -> None:
        self._model = model
        self._caches: dict[int, Any] = {}

    def __call__(self, readings: Sequence[Reading]) -> torch.Tensor:
        return torch.cat([self._read(reading) for reading in readings])

    def _read(self, reading: Reading) -> torch.Tensor:
        device = self._model.device
        if reading.start == 0:
            self._caches[reading.slot] = DynamicCache(config=self._model.config)
        answer = self._model(
            input_ids=torch.tensor([list(reading.tokens)], device=device),
            position_ids=torch.arange(reading.start, reading.start + len(reading.tokens), device=device)[None],
            past_key_values=self._caches[reading.slot],
            use_cache=True,
        )
        return answer.logits[:, -1]

    def move(self, source: int, target: int, tokens: int) -> None:
        self._caches[target] = self._caches.pop(source)


def why_apart(model: Any) -> tuple[str | None, int]:
    """(why answers of this model can't be read together, bytes of a token's keys and values). It is tried out against
    plain forward passes. None: they can."""
    before = model.config._attn_implementation
    tokens = torch.arange(sum(CHECKED), device=model.device) % (model.config.get_text_config().vocab_size - 1) + 1
    prompts = [each.tolist() for each in tokens.split(CHECKED)]
    plain = [model(input_ids=torch.tensor([prompt], device=model.device)).logits[0] for prompt in prompts]
    try:
        together = Together(model, len(prompts), max(CHECKED))
        first = together([Reading(slot, 0, prompt[:-2]) for slot, prompt in enumerate(prompts)])
        together([Reading(0, len(prompts[0]) - 2, prompts[0][-2:-1]), Reading(1, len(prompts[1]) - 2, prompts[1][-2:])])
        second = together([Reading(0, len(prompts[0]) - 1, prompts[0][-1:])])
        third = together([Reading(1, len(prompts[1]) - 1, prompts[1][-1:])])
        found = [*first, *second, *third]
        wanted = [plain[0][-3], plain[1][-3], plain[0][-1], plain[1][-1]]
        far = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))
    except Exception as error:
        far, why = float("inf"), f"{type(error).__name__}: {error}"
    else:
        why = f"scores differ by {far:.2g} of the largest"
    exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    if far <= (CLOSE if exact else CLOSE_IN_HALF):
        return None, together.token_bytes
    model.set_attn_implementation(before)
    return why, 0
