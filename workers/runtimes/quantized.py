"""How weights are made smaller while they are loaded: options for the library's loader, and the bytes they then take.

Knows nothing of models, nor of where layers go.
"""

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from workers.contract.launch import Quantization
from workers.runtimes.base import invalid

GROUP = 64
"""Weights that share a scale in torchao's int4."""


def options(quantization: Quantization, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Options of `from_pretrained`; none for 'none'. Raises RunFailed where the library for it isn't installed."""
    if quantization == "none":
        return {}
    if quantization in ("torchao_int8", "torchao_int4"):
        config = _torchao(quantization, device)
    elif quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:  # nf4 with double quantization: Dettmers et al. 2023 (QLoRA)
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": config, "device_map": {"": str(device)}}


def _torchao(quantization: str, device: torch.device) -> Any:
    if importlib.util.find_spec("torchao") is None:
        raise invalid(
            f"quantization: {quantization} needs torchao on this node; run pip install '.[torchao]', or use int8."
        )
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    if quantization == "torchao_int8":
        return TorchAoConfig(Int8WeightOnlyConfig())
    return TorchAoConfig(Int4WeightOnlyConfig(group_size=GROUP))


def held_bytes(model: Any) -> int:
    """Of parameters and buffers, each storage once; also of tensors that wrap others, as torchao's do."""
    seen: dict[int, int] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        for part in _parts(tensor):
            if part.device.type != "meta":
                storage = part.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def _parts(tensor: Any) -> list[Any]:
    names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else []
    if not names:
        return [tensor]
    return [part for name in names for part in _parts(getattr(tensor, name))]
