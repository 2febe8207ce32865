"""How weights are made smaller while they are loaded: options for the library's loader, and the bytes they then take.

Knows nothing of models, nor of where layers go.
"""

import importlib.util
import logging
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from workers.contract.launch import Quantization
from workers.runtimes.base import invalid

GROUP = 64
"""Weights that share a scale in torchao's int4."""


def options(quantization: Quantization, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Options of `from_pretrained`; none for 'none'. Raises RunFailed where its library isn't installed, or where it is
    another engine's."""
    if quantization == "none":
        return {}
    if quantization == "fp8":
        raise invalid("quantization: fp8 is done by vLLM alone; use the engine vllm, or int8.")
    if quantization in ("torchao_int8", "torchao_int4"):
        config = _torchao(quantization, dtype, device)
    elif quantization == "int8":
        # It says so of every layer at every token, hundreds of lines a word.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:  # nf4 with double quantization: Dettmers et al. 2023 (QLoRA)
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": config, "device_map": {"": str(device)}}


def _torchao(quantization: str, dtype: torch.dtype, device: torch.device) -> Any:
    if importlib.util.find_spec("torchao") is None:
        raise invalid(
            f"quantization: {quantization} needs torchao on this node; run pip install '.[torchao]', or use int8."
        )
    from transformers import TorchAoConfig

    if quantization == "torchao_int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    # Each device has kernels for one layout, and the default one needs a library that torchao doesn't bring.
    if device.type == "cpu":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return TorchAoConfig(PrototypeInt4WeightOnlyConfig(group_size=GROUP, set_inductor_config=False))
    if dtype != torch.bfloat16:
        raise invalid("quantization: torchao_int4 computes in bf16 on a GPU; use precision bf16, or nf4.")
    from torchao.quantization import Int4WeightOnlyConfig

    return TorchAoConfig(Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d"))


def held_bytes(model: Any) -> int:
    """Of parameters and buffers, each storage once; also of what lies behind them: the tensors that torchao's wrap, and
    the scales that bitsandbytes keeps beside a weight."""
    seen: dict[int, int] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        for part in _parts(tensor):
            if part.device.type != "meta":
                storage = part.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def _parts(tensor: Any) -> list[torch.Tensor]:
    names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else []
    if names:
        return [part for name in names for part in _parts(getattr(tensor, name))]
    return [tensor, *_tensors(getattr(tensor, "quant_state", None)), *_tensors(getattr(tensor, "SCB", None))]


def _tensors(state: Any) -> list[torch.Tensor]:
    """Of a quantized weight's state: scales, which may have scales of their own. None has none."""
    if state is None or isinstance(state, torch.Tensor):
        return [] if state is None else [state]
    held = ("absmax", "code", "offset", "state2")
    return [each for name in held for each in _tensors(getattr(state, name, None))]
