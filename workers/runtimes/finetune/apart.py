"""Attention over packs: samples of like length side by side, each causal by itself, not whole packs under a mask.

A mask keeps samples apart, and every score between two of them is worked out all the same: with samples of 30 tokens
in packs of 512 that is fifteen sixteenths of all. Here samples whose lengths lie between the same powers of two share
one call without a mask. For PyTorch's own attention (`sdpa`) in training; everything else goes the library's way.
Knows nothing of what is trained.
"""

from typing import Any, NamedTuple
from weakref import ReferenceType, ref

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "sdpa_apart"
LAYERS = {"full_attention", "sliding_attention"}


class Layout(NamedTuple):
    """Of one batch of packs, as slots: each sample's tokens in a row, its last one again up to its group's width."""

    tokens: torch.Tensor
    """(slots,), which of the batch's tokens stands there."""
    groups: tuple[tuple[int, int], ...]
    """Slots and width of each group, the narrowest first."""
    back: torch.Tensor
    """(batch * length,), the slot of each token."""


def keep_apart(model: Any) -> None:
    """Let a model that attends by sdpa do so; one whose layers attend in other ways is left alone."""
    text = model.config.get_text_config()
    if text._attn_implementation == "sdpa" and set(getattr(text, "layer_types", None) or ()) <= LAYERS:
        model.set_attn_implementation(NAME)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As Transformers' attention functions: `query`, `key` and `value` are (batch, heads, length, size); gives (batch,
    length, heads, size)."""
    batch, _, length, _ = query.shape
    layout = None
    if module.training and attention_mask is not None and options.get("position_bias") is None:
        layout = _layout(options.get("position_ids"), batch, length, options.get("sliding_window"))
    if layout is None:
        answer: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return answer
    slots = [count for count, _ in layout.groups]
    parts = [
        states.transpose(1, 2).reshape(batch * length, -1).index_select(0, layout.tokens).split(slots)
        for states in (query, key, value)
    ]
    found = []
    for (_, width), *rows in zip(layout.groups, *parts, strict=True):
        beside = [
            part.view(-1, width, *states.shape[1::2]).transpose(1, 2)
            for part, states in zip(rows, (query, key, value), strict=True)
        ]
        found.append(sdpa_attention_forward(module, *beside, None, **{**options, "is_causal": True})[0].flatten(0, 1))
    return torch.cat(found).index_select(0, layout.back).view(batch, length, *found[0].shape[1:]), None


_latest: tuple[ReferenceType[torch.Tensor], Layout] | None = None
"""Of the position ids that were laid out last: all layers ask for the same."""


def _layout(positions: torch.Tensor | None, batch: int, length: int, window: int | None) -> Layout | None:
    """None where the batch isn't one of packs, or a sample is longer than the layer's window."""
    global _latest
    if positions is None or positions.shape != (batch, length):
        return None
    if _latest is None or _latest[0]() is not positions:
        _latest = ref(positions), _laid_out(positions)
    layout = _latest[1]
    if not layout.groups or (window is not None and window < layout.groups[-1][1]):
        return None
    return layout


def _laid_out(positions: torch.Tensor) -> Layout:
    """`positions`: (batch, length), from 0 on for each sample. No groups where a row is one sample."""
    flat = positions.flatten()
    first = (flat == 0).nonzero().flatten()
    lengths = torch.diff(first, append=first.new_tensor([flat.numel()]))
    if len(first) <= len(positions):
        return Layout(flat, (), flat)
    size = (lengths - 1).clamp(min=1).log2().floor()
    groups: list[tuple[int, int]] = []
    tokens, back = [], torch.empty_like(flat)
    for one in size.unique():
        begins, of_them = first[size == one, None], lengths[size == one, None]
        width = int(of_them.max())
        at = torch.arange(width, device=flat.device)
        these = (begins + torch.minimum(at, of_them - 1)).flatten()
        real = (at < of_them).flatten().nonzero().flatten()
        back[these[real]] = sum(slots for slots, _ in groups) + real
        groups.append((len(these), width))
        tokens.append(these)
    return Layout(torch.cat(tokens), tuple(groups), back)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
