"""What serving nf4 takes beyond the weights on a CPU with AVX512-BF16: bitsandbytes lays each weight out anew at its
first use.

Knows nothing of other quantizations, nor of training, where the layout stays. Source: bitsandbytes 0.50,
functional._convert_weight_packed_for_cpu.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from portal.planner.shapes import ModelShape
from portal.planner.states import NF4_BLOCK, is_quantized, quantized_bytes

AT_WORK = 6.5
"""Bytes of each of a tensor's elements while it is laid out anew: 4 as int32, 1 as uint8, 1 reordered, and half a byte
of a shifted half; the old and the new weight, half a byte each, are counted with the weights, but for one of them."""
OLD = 0.5
CODE = 64
"""The 16 values of a weight in fp32, which a tensor keeps; the table of its scales goes."""


@dataclass(frozen=True)
class Repacking:
    """Bytes on the device. `scales`: what bf16 scales take more than nested ones. `at_work`: while the largest tensor
    is laid out, the last of its kind."""

    scales: int
    at_work: int


@lru_cache(maxsize=64)
def repacking(shape: ModelShape) -> Repacking:
    """Of the whole model on one device."""
    found = [tensor for tensor in shape.tensors if is_quantized(tensor, "nf4")]
    scales = sum(tensor.count * (_packed(prod(tensor.shape)) - quantized_bytes(tensor, "nf4", 2)) for tensor in found)
    largest = max((prod(tensor.shape) for tensor in found), default=0)
    return Repacking(scales, int(largest * (AT_WORK + OLD)))


def _packed(elements: int) -> int:
    return elements // 2 + 2 * elements // NF4_BLOCK + CODE
