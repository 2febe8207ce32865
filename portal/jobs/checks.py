"""What a spec asks for, looked up: unknown names, contexts longer than the model's, adapters of other models.

Bounds of single fields are the contract's. Knows nothing of queues; writes nothing.
"""

from dataclasses import dataclass, field
from typing import TypeVar, cast

from django.db.models import Model, QuerySet

from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.fleet.models import Accelerator, Node
from portal.fleet.selectors import nodes
from portal.jobs import load_tests, quantizing, spreading
from portal.jobs.plan_names import answers
from workers.contract.errors import FieldError, Refused, unknown_name
from workers.contract.export import ExportSpec, gguf_refusal
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec
from workers.contract.load_test import LoadTestSpec
from workers.contract.numerics import FP8_CAPABILITY, has_fp8
from workers.contract.objectives import RowFormat, mismatch
from workers.contract.quantize import QuantizeSpec
from workers.contract.resources import Resources
from workers.contract.spec import PreflightSpec, Spec

Row = TypeVar("Row", bound=Model)


@dataclass
class Named:
    """The records a spec names."""

    model: ModelProfile | None
    """None for a load test, and a preflight without a model."""
    dataset: Dataset | None = None
    adapter: Adapter | None = None


@dataclass
class _Errors:
    found: list[FieldError] = field(default_factory=list)

    def add(self, path: str, value: object, sentence: str) -> None:
        self.found.append(FieldError(path, value, f"{path}: {sentence}"))


class Known:
    """Records by name, each read once: for many specs in a row, not for longer."""

    def __init__(self) -> None:
        self._rows: dict[tuple[type[Model], str], Model | None] = {}

    def first(self, rows: QuerySet[Row], name: str) -> Row | None:
        """The one of `rows` with that name."""
        key = (rows.model, name)
        if key not in self._rows:
            self._rows[key] = rows.filter(name=name).first()
        return cast(Row | None, self._rows[key])


def look_up(spec: Spec, known: Known | None = None) -> Named:
    """The records behind the names in `spec`. Raises Refused with every error found."""
    errors, known = _Errors(), known or Known()
    model = None if isinstance(spec, LoadTestSpec) or not spec.model else _model(spec, errors, known)
    if spec.resources.node and known.first(Node.objects.all(), spec.resources.node) is None:
        errors.found.append(unknown_name("resources.node", "node", spec.resources.node, _names(Node)))
    dataset = adapter = None
    if isinstance(spec, FinetuneSpec):
        dataset = _dataset(spec, errors, known)
        _eight_bits(spec, "precision", "bf16 or auto", errors)
        errors.found += spreading.refusals(model, spec.parallel) if model else []
    elif isinstance(spec, LaunchSpec | ExportSpec | QuantizeSpec):
        adapter = _adapter(spec, errors, known)
        if isinstance(spec, LaunchSpec):
            _eight_bits(spec, "quantization", "int8", errors)
        else:
            _free_name(spec, errors)
        if isinstance(spec, ExportSpec) and model:
            _written(spec, model, errors)
        if isinstance(spec, QuantizeSpec):
            dataset = _named_dataset(spec.dataset, errors, known) if spec.dataset else None
    elif isinstance(spec, LoadTestSpec):
        dataset = _named_dataset(spec.dataset, errors, known) if spec.dataset else None
        errors.found += load_tests.refusals(spec, dataset)
    if model and not isinstance(spec, PreflightSpec | LoadTestSpec):
        errors.found += quantizing.refusals(spec, model, dataset, _devices_for)
    if errors.found:
        raise Refused(errors.found)
    return Named(model, dataset, adapter)


def _model(
    spec: FinetuneSpec | LaunchSpec | PreflightSpec | ExportSpec | QuantizeSpec, errors: _Errors, known: Known
) -> ModelProfile | None:
    model = known.first(ModelProfile.objects.all(), spec.model or "")
    if model is None:
        errors.found.append(unknown_name("model", "model", spec.model or "", _names(ModelProfile)))
    elif (
        isinstance(spec, FinetuneSpec | LaunchSpec)
        and model.context_length
        and spec.context_length > model.context_length
    ):
        errors.add(
            "context_length",
            spec.context_length,
            f"{spec.context_length} tokens are more than {model.name} can hold; use at most {model.context_length}.",
        )
    return model


def _dataset(spec: FinetuneSpec, errors: _Errors, known: Known) -> Dataset | None:
    dataset = _named_dataset(spec.dataset, errors, known)
    if dataset and (sentence := mismatch(spec.objective, dataset.name, cast(RowFormat, dataset.format))):
        errors.add("objective", spec.objective, sentence)
    made = Adapter if spec.makes_adapter else ModelProfile
    if spec.adapter and made.objects.filter(name=spec.adapter).exists():
        what = "an adapter" if spec.makes_adapter else "a model"
        errors.add("adapter", spec.adapter, f"there is already {what} named {spec.adapter!r}; choose another name.")
    if spec.adapter and spec.save_merged and ModelProfile.objects.filter(name=spec.adapter).exists():
        errors.add("adapter", spec.adapter, f"there is already a model named {spec.adapter!r}; choose another name.")
    return dataset


def _named_dataset(name: str, errors: _Errors, known: Known) -> Dataset | None:
    dataset = known.first(Dataset.objects.all(), name)
    if dataset is None:
        errors.found.append(unknown_name("dataset", "dataset", name, _names(Dataset)))
    return dataset


def _eight_bits(spec: FinetuneSpec | LaunchSpec, name: str, other: str, errors: _Errors) -> None:
    """No device that the job may get lacks the 8-bit floats that the field `name` asks for; `other` would do."""
    if getattr(spec, name) != "fp8":
        return
    devices = _devices_for(spec.resources)
    lacking = [(device, node) for device, node in devices if not has_fp8(device.kind, device.compute_capability)]
    if lacking:
        device, node = lacking[0]
        has = f"compute capability {device.compute_capability}" if device.kind == "cuda" else "no CUDA"
        instead = "name a node or labels that leave newer ones only" if len(lacking) < len(devices) else f"use {other}"
        errors.add(
            name,
            "fp8",
            f"fp8 needs GPUs of compute capability {FP8_CAPABILITY:g} or more, and {device.name or 'the CPU'} of node "
            f"{node.name}, which this job may get, has {has}; {instead}.",
        )


def _written(spec: ExportSpec, model: ModelProfile, errors: _Errors) -> None:
    """Whether there is something to export, in a format that can hold it."""
    if not spec.adapter and model.source == spec.format:
        errors.add("format", spec.format, f"{model.name} is {spec.format} already; use the other, or name an adapter.")
    elif spec.format == "gguf" and model.config and (sentence := gguf_refusal(model.config)):
        errors.add("format", spec.format, sentence)


def _free_name(spec: ExportSpec | QuantizeSpec, errors: _Errors) -> None:
    if spec.result and ModelProfile.objects.filter(name=spec.result).exists():
        errors.add("result", spec.result, f"there is already a model named {spec.result!r}; choose another name.")


def _devices_for(asked: Resources) -> list[tuple[Accelerator, Node]]:
    """Those that a job with these wishes may get, each with its node."""
    return [
        (device, node)
        for node in nodes()
        if asked.node in (None, node.name) and asked.labels.items() <= node.labels.items()
        for device in node.accelerators.all()
        if device.present and answers(device, asked)
    ]


def _adapter(spec: LaunchSpec | ExportSpec | QuantizeSpec, errors: _Errors, known: Known) -> Adapter | None:
    if not spec.adapter:
        return None
    adapter = known.first(Adapter.objects.select_related("base_model"), spec.adapter)
    if adapter is None:
        errors.found.append(unknown_name("adapter", "adapter", spec.adapter, _names(Adapter)))
    elif adapter.base_model.name != spec.model:
        errors.add(
            "adapter",
            spec.adapter,
            f"{spec.adapter!r} was trained on {adapter.base_model.name}, not on {spec.model}; use that model.",
        )
    return adapter


def _names(records: type[ModelProfile] | type[Dataset] | type[Adapter] | type[Node]) -> list[str]:
    return [record.name for record in records.objects.only("name")]
