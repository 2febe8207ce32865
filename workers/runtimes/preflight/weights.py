"""What a model's files say of its size: bytes, parameters and matrices, from the headers alone.

Reads no weights. Doesn't know what they are used for.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from workers.contract.base import Precision
from workers.contract.launch import Quantization
from workers.contract.order import ModelInput
from workers.contract.preflight import Line
from workers.runtimes.base import local_path
from workers.runtimes.preflight.lines import line, size

NAME = "model"

_HEADER_LIMIT = 100 * 1024 * 1024
_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}

# Bytes per weight of a quantized matrix: int8 with a scale a row; nf4 with a double-quantized scale for each 64
# weights, 4 + 8/64 + 32/(64 * 256) bits (Dettmers et al. 2023, section 3); fp8 with one scale; torchao's int4 with a
# scale and a zero point for each 64 weights, which are numbers of the precision.
_QUANTIZED_BYTES = {
    "int8": 1.0,
    "nf4": (4 + 8 / 64 + 32 / (64 * 256)) / 8,
    "torchao_int8": 1.0,
    "torchao_int4": 0.5,
    "fp8": 1.0,
}


@dataclass(frozen=True)
class Weights:
    """A model's weight files. `parameters` None where the format doesn't say (GGUF)."""

    files: tuple[Path, ...]
    file_bytes: int
    parameters: int | None = None
    matrices: tuple[tuple[int, int], ...] = ()
    """(rows, columns) of every linear layer between embedding and head: what LoRA trains and bitsandbytes packs."""

    def loaded_bytes(self, precision: Precision, device_kind: str, quantization: Quantization) -> int:
        """Bytes of the weights once loaded; at least that where the file doesn't tell the parameters."""
        if self.parameters is None:
            return self.file_bytes
        if precision == "auto":
            precision = "bf16" if device_kind == "cuda" else "fp32"
        plain = _BYTES[precision]
        if quantization == "none":
            return int(self.parameters * plain)
        packed = sum(rows * columns for rows, columns in self.matrices)
        each = _QUANTIZED_BYTES[quantization] + (2 * plain / 64 if quantization == "torchao_int4" else 0)
        return int(packed * each + (self.parameters - packed) * plain)

    def lora_checkpoint_bytes(self, rank: int) -> int | None:
        """An adapter on every linear layer with AdamW's two moments, all fp32: rank x (rows + columns) x 12 bytes."""
        if not self.matrices:
            return None
        return sum(rank * (rows + columns) * 12 for rows, columns in self.matrices)


def read_weights(model: ModelInput) -> Weights | None:
    """None for a model that a hub still has.

    Raises RunFailed when nothing is there, and OSError, ValueError, KeyError or struct.error for what can't be read.
    """
    if model.format == "hub":
        return None
    path = local_path(model.uri, "model.uri")
    if path.is_file():
        return Weights((path,), path.stat().st_size)
    files = sorted(path.glob("*.safetensors"), key=lambda file: -file.stat().st_size)
    shapes = {name: shape for file in files for name, shape in _shapes(file).items()}
    if not files:
        raise ValueError(f"{path.name} holds no .safetensors file")
    return Weights(
        files=tuple(files),
        file_bytes=sum(file.stat().st_size for file in files),
        parameters=sum(math.prod(shape) for shape in shapes.values()) or None,
        matrices=tuple((shape[0], shape[1]) for name, shape in shapes.items() if _is_linear(name, shape)),
    )


def _shapes(file: Path) -> dict[str, list[int]]:
    """Tensor name → shape: eight bytes of length, then JSON (safetensors format)."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > _HEADER_LIMIT:
            raise ValueError(f"{file.name} is no safetensors file: its header claims {length} bytes")
        header = json.loads(opened.read(length))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def _is_linear(name: str, shape: list[int]) -> bool:
    outside = any(word in name for word in ("embed", "lm_head", "wte", "wpe"))
    return len(shape) == 2 and name.endswith(".weight") and not outside


def check(weights: Weights | None, unreadable: str) -> Line:
    """The line on the model's files; `unreadable`: why they say nothing."""
    if unreadable:
        return line(
            NAME, "fail", f"Its files can't be used: {unreadable}.", "Put a complete safetensors model there again."
        )
    if weights is None:
        return line(NAME, "ok", "It comes from a hub: how large it is shows once it is fetched.")
    known = f"{weights.parameters:,} parameters in " if weights.parameters else ""
    files = f"{len(weights.files)} file{'s' if len(weights.files) != 1 else ''}"
    return line(NAME, "ok", f"{known}{size(weights.file_bytes)}, {files}.", value=weights.file_bytes)
