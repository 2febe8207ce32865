"""Linear layers in fp32 on a CPU, by oneDNN's product: that of PyTorch's own choice, MKL's, takes up to five times as
long for the few rows of a step, one for each answer.

No weight is copied. Knows nothing of attention, nor of other number formats, for which PyTorch asks oneDNN by itself.
"""

from typing import Any

import torch
from torch import nn


class OneDnnLinear(nn.Linear):  # type: ignore[misc]  # the library is untyped
    """Not for training: it has no backward pass."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.numel() == self.in_features:  # one row alone, which MKL multiplies in half the time
            return super().forward(input)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return product


def quicken(model: Any) -> None:
    """Every plain linear layer whose weights are plain numbers in fp32 in this machine's memory."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in model.modules():
        if type(module) is nn.Linear and _is_plain(module.weight.data):
            module.__class__ = OneDnnLinear


def _is_plain(weight: torch.Tensor) -> bool:
    """Quantized weights are of a type of their own, and say that they are in fp32."""
    return type(weight) is torch.Tensor and weight.dtype == torch.float32 and weight.device.type == "cpu"
