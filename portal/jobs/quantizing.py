"""What can't be done with quantized weights, and what can't be quantized, each with what to choose instead.

Writes nothing. Knows nothing of how much memory anything takes (planner).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from portal.catalog.models import Dataset, ModelProfile
from portal.fleet.models import Accelerator, Node
from portal.jobs.plan_names import shape_of
from portal.planner.states import ungrouped
from workers.contract.checkpoint import AWQ_CAPABILITY, TITLES, Stored, stored_as
from workers.contract.errors import FieldError, Refused
from workers.contract.export import ExportSpec
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec
from workers.contract.quantize import GROUP_SIZES, QuantizeSpec
from workers.contract.resources import Resources

Devices = Callable[[Resources], Sequence[tuple[Accelerator, Node]]]
"""Those that a job with such wishes may get, each with its node."""
VERBS = {"finetune": "trained", "export": "exported", "quantize": "quantized again"}


class _Refusal(NamedTuple):
    path: str
    value: object
    sentence: str


def refusals(
    spec: FinetuneSpec | LaunchSpec | ExportSpec | QuantizeSpec,
    model: ModelProfile,
    dataset: Dataset | None,
    devices: Devices,
) -> list[FieldError]:
    """One for each field that is wrong."""
    stored = stored_as(model.config)
    found: Iterator[_Refusal] = iter(())
    if stored is not None:
        found = (
            _of_launch(spec, model, stored, devices) if isinstance(spec, LaunchSpec) else _of_work(spec, model, stored)
        )
    elif isinstance(spec, QuantizeSpec):
        found = _of_quantizing(spec, model, dataset)
    return [FieldError(path, value, f"{path}: {sentence}") for path, value, sentence in found]


def _of_work(spec: FinetuneSpec | ExportSpec | QuantizeSpec, model: ModelProfile, stored: Stored) -> Iterator[_Refusal]:
    """Weights that are quantized are for serving."""
    sentence = (
        f"{model.name} has {TITLES[stored.layout]} weights, which can't be {VERBS[spec.kind]}; use {_made_of(model)}."
    )
    yield _Refusal("model", model.name, sentence)


def _of_launch(spec: LaunchSpec, model: ModelProfile, stored: Stored, devices: Devices) -> Iterator[_Refusal]:
    """What is quantized isn't quantized once more, and goes where there are kernels for it."""
    title = TITLES[stored.layout]
    if spec.quantization != "none":
        sentence = (
            f"{model.name} has {title} weights of {stored.bits} bits already; use none, or launch {_made_of(model)}."
        )
        yield _Refusal("quantization", spec.quantization, sentence)
    if spec.engine == "llama_cpp":
        yield _Refusal("engine", spec.engine, f"llama.cpp does not load {title} weights; use auto.")
    if stored.layout != "awq":
        return
    if spec.engine == "transformers":
        sentence = f"only vLLM serves AWQ weights; use auto or vllm, or quantize {_made_of(model)} by gptq."
        yield _Refusal("engine", spec.engine, sentence)
    found = devices(spec.resources)
    lacking = [(device, node) for device, node in found if not _reads_awq(device)]
    if lacking:
        device, node = lacking[0]
        instead = "wish for cuda, a node or labels that leave such GPUs only, or " if len(lacking) < len(found) else ""
        yield _Refusal(
            "model",
            model.name,
            f"{model.name} has AWQ weights, which vLLM serves on a GPU of compute capability {AWQ_CAPABILITY:g} or "
            f"more, and this launch may get {device.name or 'the CPU'} of node {node.name}; {instead}launch "
            f"{_made_of(model)} with quantization nf4, or quantized by gptq.",
        )


def _of_quantizing(spec: QuantizeSpec, model: ModelProfile, dataset: Dataset | None) -> Iterator[_Refusal]:
    if model.source == ModelProfile.Source.GGUF:
        yield _Refusal(
            "model", model.name, f"{model.name} is a GGUF file; export it as safetensors, then quantize that."
        )
        return
    if model.context_length and spec.sequence_length > model.context_length:
        yield _Refusal(
            "sequence_length",
            spec.sequence_length,
            f"{spec.sequence_length} tokens are more than {model.name} can hold; use at most {model.context_length}.",
        )
    if dataset is not None and dataset.shard_count:
        yield _Refusal(
            "dataset",
            dataset.name,
            f"{dataset.name!r} lies in shards, which aren't read for this; name a dataset of one file, or none.",
        )
    with suppress(Refused):  # of a model whose shape isn't known the run tells
        shape = shape_of(model)
        if tensor := ungrouped(shape, spec.group_size):
            able = [str(size) for size in GROUP_SIZES if ungrouped(shape, size) is None]
            instead = f"use {' or '.join(able)}" if able else "no size does for this model; launch it with nf4 or int8"
            yield _Refusal(
                "group_size",
                spec.group_size,
                f"{spec.group_size} doesn't divide the {tensor.shape[-1]} inputs of {tensor.name}; {instead}.",
            )


def _made_of(model: ModelProfile) -> str:
    return model.base_model.name if model.base_model else "the model it was made of"


def _reads_awq(device: Accelerator) -> bool:
    try:
        return device.kind == Accelerator.Kind.CUDA and float(device.compute_capability) >= AWQ_CAPABILITY
    except ValueError:
        return device.kind == Accelerator.Kind.CUDA
