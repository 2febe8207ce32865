"""Open the model and tokenizer an order names: safetensors folder, GGUF file, or hub id at a revision.

Refuses pickled weights; runs a model's own code only where the order allows it. Knows nothing of training or serving.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.distributed import DistributedConfig

from workers.contract.checkpoint import stored_as
from workers.contract.launch import Quantization
from workers.contract.numerics import TrainPrecision
from workers.contract.order import AdapterInput, ModelInput
from workers.runtimes import quantized
from workers.runtimes.base import RunFailed, invalid, local_path, missing
from workers.runtimes.convert import read_gguf
from workers.runtimes.team import local_rank

HUB_SCHEME = "hub://"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def choose_dtype(precision: TrainPrecision, device_kind: str) -> torch.dtype:
    """The type of the weights. 'auto' is bf16 on a GPU that has it, else fp32: bf16 on a CPU is many times slower."""
    if device_kind == "cuda" and not torch.cuda.is_available():
        raise invalid("devices: the order gives a CUDA device, but PyTorch finds none on this node.")
    if precision == "fp16" and device_kind == "cpu":
        raise invalid("precision: fp16 needs a GPU; use fp32, bf16 or auto on a CPU.")
    if precision == "auto":
        has_bf16 = device_kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return {"fp32": torch.float32, "fp16": torch.float16}.get(precision, torch.bfloat16)


def place(device_kind: str) -> torch.device:
    """This process's device of the allocation."""
    return torch.device("cuda", local_rank()) if device_kind == "cuda" else torch.device("cpu")


def load_model(
    source: ModelInput,
    dtype: torch.dtype,
    device_kind: str,
    quantization: Quantization = "none",
    sharding: DistributedConfig | None = None,
    spread: bool = False,
    offload: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Any, Any]:
    """(model in eval mode on its device, tokenizer). `sharding`: over the processes of the run, each of which calls it;
    `spread`: by this process alone, over all the run's GPUs on this node; `offload`: the loader's options that say
    which layers go elsewhere.

    Raises RunFailed: artifact_missing where nothing is there, invalid_input where what is there can't be used.
    """
    if source.format == "gguf":
        return _load_gguf(source, dtype, device_kind, quantization)
    _refuse_awq(source)
    name, options = _where(source)
    spread = spread and device_kind == "cuda" and torch.cuda.device_count() > 1
    layout = quantized.options(quantization, dtype, place(device_kind)) | ({"device_map": "auto"} if spread else {})
    layout |= dict(offload)
    if sharding is not None:
        layout["distributed_config"] = sharding
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True, **layout, **options)
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from error
    if not layout:
        model.to(place(device_kind))
        if device_kind == "cpu" and model.dtype != dtype:
            model.to(dtype)  # AutoRound's loader made it fp16, in which a CPU takes seven times as long
    return model.eval(), load_tokenizer(source)


def load_tokenizer(source: ModelInput) -> Any:
    """The tokenizer alone, with a padding token. Raises RunFailed as `load_model`."""
    name, options = _where(source)
    try:
        return with_padding(AutoTokenizer.from_pretrained(name, **options))
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from error


def local_folder(source: ModelInput) -> Path:
    """The folder with the model's safetensors, fetched first where they are on the hub. Raises RunFailed."""
    if source.format == "gguf":
        raise invalid(f"model: {source.name!r} is a GGUF file, which is read whole; convert it to safetensors.")
    name, options = _where(source)
    if source.format != "hub":
        return Path(name)
    try:
        return Path(snapshot_download(name, revision=options["revision"], allow_patterns=["*.safetensors", "*.json"]))
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from error


def load_config(source: ModelInput) -> Any:
    """The model's config alone; reads no weights."""
    if source.format == "gguf":
        path = local_path(source.uri, "model.uri")
        return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    name, options = _where(source)
    try:
        return AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from error


def add_adapter(model: Any, adapter: AdapterInput) -> Any:
    """The model with a LoRA adapter on it. Raises RunFailed when it isn't one, or is made for another model."""
    from peft import PeftModel

    folder = local_path(adapter.uri, "adapter.uri")
    for needed in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / needed).is_file():
            raise invalid(f"adapter.uri: {str(folder)!r} holds no {needed}; give a PEFT folder with safetensors.")
    try:
        return PeftModel.from_pretrained(model, folder).eval()
    except (RuntimeError, ValueError) as error:
        raise invalid(
            f"adapter: {adapter.name!r} does not fit this model; use the model it was made for ({_first(error)})."
        ) from error


def context_limit(config: Any) -> int | None:
    """Tokens the model can attend to by its config; None where the config sets no bound."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def check_context(context_length: int, config: Any) -> None:
    """Raise RunFailed(invalid_input) when the spec's context is longer than the model's."""
    limit = context_limit(config)
    if limit is not None and context_length > limit:
        raise invalid(f"context_length: {context_length} tokens is beyond this model's {limit}; use at most {limit}.")


def with_padding(tokenizer: Any) -> Any:
    """The tokenizer, with its end-of-text token for padding where it has no pad token."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise invalid("model: its tokenizer has neither a pad nor an end-of-text token; add one to the tokenizer.")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _where(source: ModelInput) -> tuple[str, dict[str, Any]]:
    options: dict[str, Any] = {"trust_remote_code": source.trust_remote_code}
    if source.format == "hub":
        if not source.uri.startswith(HUB_SCHEME):
            raise invalid(f"model.uri: {source.uri!r} is no hub model; write hub://org/name.")
        return source.uri.removeprefix(HUB_SCHEME), {**options, "revision": source.revision or "main"}
    folder = local_path(source.uri, "model.uri")
    _refuse_pickles(folder)
    return str(folder), {**options, "local_files_only": True}


def _refuse_pickles(folder: Path) -> None:
    if not folder.is_dir():
        raise invalid(f"model.uri: {str(folder)!r} is a file; a safetensors model is a folder with config.json.")
    if not (folder / "config.json").is_file():
        raise missing(f"model.uri: {str(folder)!r} holds no config.json.")
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise invalid(f"model.uri: {pickled[0]} is a pickle, which can run code; convert the model to safetensors.")
    raise missing(f"model.uri: {str(folder)!r} holds no .safetensors file.")


def _refuse_awq(source: ModelInput) -> None:
    stored = stored_as(load_config(source).to_dict())
    if stored is not None and stored.layout == "awq":
        raise invalid(
            f"model: {source.name} has AWQ weights, which only vLLM loads, on a GPU (pip install '.[vllm]'); use one "
            "quantized by gptq, or the one that it was made of."
        )


def _load_gguf(source: ModelInput, dtype: torch.dtype, device_kind: str, quantization: Quantization) -> tuple[Any, Any]:
    path = local_path(source.uri, "model.uri")
    if not path.is_file():
        raise invalid(f"model.uri: {str(path)!r} is a folder; a GGUF model is one .gguf file.")
    if quantization != "none":
        raise invalid(f"quantization: {quantization} needs a safetensors model; convert the GGUF file, or use none.")
    try:
        model, tokenizer = read_gguf(path, dtype)
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from error
    return model.to(place(device_kind)), with_padding(tokenizer)


def _unreadable(source: ModelInput, error: Exception) -> RunFailed:
    if isinstance(error, OSError) and source.format == "hub":
        return missing(f"model.uri: {source.uri!r} could not be fetched ({_first(error)}).")
    if "trust_remote_code" in str(error):
        return invalid(
            f"model: {source.name!r} needs code of its own; an admin must approve it at this revision first."
        )
    return invalid(f"model: {source.name!r} cannot be read ({_first(error)}).")


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
