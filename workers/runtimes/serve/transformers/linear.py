"""Linear layers in fp32 on a CPU, by the quicker of two products: PyTorch's own choice, MKL's, or oneDNN's.

Which is quicker depends on the processor, the layer and how many rows there are, one for each answer of a step: either
takes up to five times as long as the other. So it is tried out when a model is loaded. No weight is copied. Knows
nothing of attention, nor of other number formats, for which PyTorch asks oneDNN by itself.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

ROWS = (3, 6, 12, 24, 96)
"""Rows at which both are tried: the first tells for 2 and 3 rows, the next for 4 to 7, and so on doubling."""
TRIES, TRIED_BYTES = 3, 32 * 2**20
"""Each is tried so often, on so many bytes of layers that are alike: more than lie in the caches nearby."""
GAIN = 0.9
"""oneDNN's is taken where it takes at most this share of the time, so that chance doesn't choose between equals."""

Product = Callable[[nn.Linear, torch.Tensor], torch.Tensor]


class QuickLinear(nn.Linear):  # type: ignore[misc]  # the library is untyped
    """Not for training: oneDNN's product has no backward pass here."""

    by_onednn: tuple[bool, ...]
    """For each of ROWS."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.numel() // self.in_features
        if rows > 1 and self.by_onednn[min(rows.bit_length() - 2, len(ROWS) - 1)]:
            return _onednn(self, input)
        return super().forward(input)  # for one row alone MKL's always is


def quicken(model: Any) -> None:
    """Every plain linear layer whose weights are plain numbers in fp32 in this machine's memory."""
    if not torch.backends.mkldnn.is_available():
        return
    alike = defaultdict(list)
    for module in model.modules():
        if type(module) is nn.Linear and _is_plain(module.weight.data):
            alike[module.weight.shape].append(module)
    for layers in alike.values():
        found = _tried(layers)
        for layer in layers:
            layer.__class__, layer.by_onednn = QuickLinear, found


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _tried(layers: Sequence[nn.Linear]) -> tuple[bool, ...]:
    """For each of ROWS whether oneDNN's product is the quicker."""
    some = layers[: max(1, TRIED_BYTES // layers[0].weight.nbytes)]
    found = []
    for rows in ROWS:
        input = torch.ones(rows, layers[0].in_features)
        took: dict[Product, list[float]] = {nn.Linear.forward: [], _onednn: []}
        for _ in range(TRIES):
            for product, seconds in took.items():
                began = time.perf_counter()
                for layer in some:
                    product(layer, input)
                seconds.append(time.perf_counter() - began)
        found.append(min(took[_onednn]) <= GAIN * min(took[nn.Linear.forward]))
    return tuple(found)


def _onednn(layer: nn.Linear, input: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, layer.weight, layer.bias, "none", [], "")
    return product


def _is_plain(weight: torch.Tensor) -> bool:
    """Quantized weights are of a type of their own, and say that they are in fp32."""
    return type(weight) is torch.Tensor and weight.dtype == torch.float32 and weight.device.type == "cpu"
