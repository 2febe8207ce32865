"""Keys and values of the answers that run: a slot for each, side by side in one tensor a layer.

A slot is as long as the longest answer so far asked for; all grow together. Layers, heads and widths show when they are
first written. Knows nothing of answers, nor of attention.
"""

import torch

FIRST_TOKENS = 256
"""Tokens that each slot has room for at first."""


class Slots:
    """`count` slots of at most `most` tokens."""

    def __init__(self, count: int, most: int) -> None:
        self.count, self.most = count, most
        self.capacity = min(FIRST_TOKENS, most)
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def make_room(self, tokens: int) -> None:
        """For so many tokens in each slot."""
        if tokens <= self.capacity:
            return
        new = min(max(tokens, 2 * self.capacity), self.most)
        for layer, pair in self._layers.items():
            self._layers[layer] = tuple(_longer(each, new) for each in pair)
        self.capacity = new

    def write(
        self, layer: int, places: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values, (1, heads, tokens, width), at `places` (slot * capacity + position). Returns all of
        the layer's, each (slots, capacity, heads, width)."""
        if layer not in self._layers:
            self._layers[layer] = self._new(key), self._new(value)
        pair = self._layers[layer]
        for held, given in zip(pair, (key, value), strict=True):
            held.flatten(0, 1).index_copy_(0, places, given[0].transpose(0, 1))
        return pair

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` of a slot over another's."""
        for pair in self._layers.values():
            for held in pair:
                held[target, :tokens] = held[source, :tokens]

    @property
    def token_bytes(self) -> int:
        """Of one token in all layers; 0 before anything was written."""
        return sum(
            each.shape[2] * each.shape[3] * each.element_size() for pair in self._layers.values() for each in pair
        )

    def _new(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(self.count, self.capacity, like.shape[1], like.shape[3])


def _longer(held: torch.Tensor, capacity: int) -> torch.Tensor:
    new = held.new_zeros(held.shape[0], capacity, *held.shape[2:])
    new[:, : held.shape[1]] = held
    return new
