"""Which engines there are, one line each, and which one serves a launch, with the reason in a sentence.

Knows their names only; an engine's module, and the libraries it needs, load when it is asked for.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple, cast

from workers.contract.launch import LaunchSpec
from workers.contract.order import ModelInput
from workers.runtimes.base import Run, invalid
from workers.runtimes.serve.engine import Engine


class Kind(NamedTuple):
    """`needs`: a package, and the command that installs it."""

    load: str
    needs: str
    install: str


ENGINES = {
    "transformers": Kind("workers.runtimes.serve.transformers.loading:load", "transformers", "pip install '.[worker]'"),
    "vllm": Kind("workers.runtimes.serve.vllm.engine:load", "vllm", "pip install '.[vllm]'"),
    "llama_cpp": Kind("workers.runtimes.serve.llama_cpp.engine:load", "llama_cpp", "pip install '.[llama]'"),
}

Load = Callable[[Run], Engine]


def loader(name: str) -> Load:
    """How an engine is loaded. Raises RunFailed where it isn't installed."""
    kind = ENGINES[name]
    if not installed(name):
        raise invalid(f"engine: {name} is not installed on this node; run {kind.install} there, or use transformers.")
    module, function = kind.load.split(":")
    return cast(Load, getattr(import_module(module), function))


def installed(name: str) -> bool:
    return find_spec(ENGINES[name].needs) is not None


def choose(spec: LaunchSpec, model: ModelInput, device_kind: str) -> tuple[str, str]:
    """(engine, why). What is asked for is taken as it is."""
    if spec.engine != "auto":
        return spec.engine, "It was asked for."
    if model.format == "gguf" and spec.adapter is None and installed("llama_cpp"):
        return "llama_cpp", "The model is a GGUF file, which llama.cpp reads as it is."
    if spec.quantization == "fp8":
        return "vllm", "It alone makes weights fp8 while loading them."
    if device_kind == "cuda" and model.format != "gguf" and spec.quantization == "none" and installed("vllm"):
        return "vllm", "It is installed, and the model goes on a GPU."
    if device_kind == "cuda":
        return "transformers", "vLLM is not installed on this node, or can't load this model as it is asked for."
    return "transformers", "It batches on a CPU, and reads every model and quantization of the form."
