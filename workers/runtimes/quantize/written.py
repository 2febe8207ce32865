"""What a checkpoint's files say of themselves: bytes, and which layers are packed. Reads headers alone."""

from pathlib import Path

from safetensors import safe_open

PACKED = ".qweight"
"""Ends the names of packed weights, which hold 32 bits a number."""


def file_bytes(folder: Path) -> int:
    """Of all safetensors files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def quantized_parameters(folder: Path, bits: int) -> tuple[int, int]:
    """(layers, parameters of these) that are packed with so many bits each."""
    layers = parameters = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                if name.endswith(PACKED):
                    rows, columns = opened.get_slice(name).get_shape()
                    layers, parameters = layers + 1, parameters + rows * columns * 32 // bits
    return layers, parameters
