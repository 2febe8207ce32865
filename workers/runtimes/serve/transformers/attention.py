"""Attention for a step over many answers at once: their tokens lie in one row, their keys and values in slots.

Registered with transformers under a name, so that any model that uses its attention interface can be batched this way.
Knows nothing of whose tokens they are, nor of the rest of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from workers.runtimes.serve.transformers.slots import Slots

NAME = "liftoff_slots"


@dataclass(frozen=True)
class Segment:
    """Tokens of one answer that this step reads: `count` of them, after `start` that its slot holds already."""

    slot: int
    start: int
    count: int


@dataclass
class Step:
    """What the layers of one forward pass share. The first `single` segments are of one token each, in slots 0, 1, 2 …;
    they attend together. The others are prompts, or pieces of them."""

    slots: Slots
    segments: Sequence[Segment]
    single: int
    device: torch.device
    positions: torch.Tensor = field(init=False)
    places: torch.Tensor = field(init=False)
    longest: int = field(init=False)
    _masks: dict[Any, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slots.make_room(max(segment.start + segment.count for segment in self.segments))
        positions = [segment.start + at for segment in self.segments for at in range(segment.count)]
        base = [segment.slot * self.slots.capacity for segment in self.segments for _ in range(segment.count)]
        self.positions = torch.tensor(positions, device=self.device)
        self.places = self.positions + torch.tensor(base, device=self.device)
        self.longest = max((segment.start + 1 for segment in self.segments[: self.single]), default=0)

    def single_mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """(rows, 1, 1, longest): 0 where a row's one token may look, -inf elsewhere."""
        return self._mask(("single", window), self.positions[: self.single, None], self.longest, window, dtype)[:, None]

    def prompt_mask(self, segment: Segment, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """(1, 1, tokens, tokens so far) of one segment."""
        until = segment.start + segment.count
        rows = torch.arange(segment.start, until, device=self.device)
        return self._mask((segment.slot, window), rows[:, None], until, window, dtype).transpose(0, 1)[None]

    def _mask(self, key: Any, rows: torch.Tensor, width: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        if key not in self._masks:
            columns = torch.arange(width, device=self.device)[None]
            hidden = columns > rows
            if window is not None:
                hidden = hidden | (columns <= rows - window)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device)
            self._masks[key] = mask.masked_fill_(hidden, float("-inf"))[:, None]
        return self._masks[key]


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    step: Step | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """`query`: (1, heads, tokens, width), the tokens of all segments one after the other. Without a step it is the
    library's own, over one text."""
    if step is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return plain
    if any(more.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise NotImplementedError("attention with a soft cap, sinks or a bias is not done in slots")
    keys, values = step.slots.write(module.layer_idx, step.places, key, value)
    groups = query.shape[1] // key.shape[1]
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    single = step.single
    if single:
        # The heads that share keys stand in for tokens of one head: no key is copied for them.
        rows = query[0, :, :single].transpose(0, 1).unflatten(1, (key.shape[1], groups))
        mask = step.single_mask(sliding_window, query.dtype)
        seen = scaled_dot_product_attention(
            rows,
            keys[:single, : step.longest].transpose(1, 2),
            values[:single, : step.longest].transpose(1, 2),
            attn_mask=mask,
            scale=scaling,
        )
        out[:single] = seen.flatten(1, 2)
    at = single
    for segment in step.segments[single:]:
        until, end = segment.start + segment.count, at + segment.count
        whole = segment.start == 0 and (sliding_window is None or until <= sliding_window)
        seen = scaled_dot_product_attention(
            query[:, :, at:end],
            keys[segment.slot, :until].transpose(0, 1).repeat_interleave(groups, 0)[None],
            values[segment.slot, :until].transpose(0, 1).repeat_interleave(groups, 0)[None],
            attn_mask=None if whole else step.prompt_mask(segment, sliding_window, query.dtype),
            is_causal=whole,
            scale=scaling,
        )
        out[at:end] = seen[0].transpose(0, 1)
        at = end
    return out[None], None


AttentionInterface.register(NAME, attend)
