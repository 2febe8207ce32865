"""What a spec asks for, looked up: unknown names, contexts longer than the model's, adapters of other models.

Bounds of single fields are the contract's. Knows nothing of queues; writes nothing.
"""

from dataclasses import dataclass, field

from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.fleet.models import Node
from workers.contract.errors import FieldError, Refused, unknown_name
from workers.contract.spec import FinetuneSpec, LaunchSpec, PreflightSpec


@dataclass
class Named:
    """The records a spec names."""

    model: ModelProfile | None
    """None for a preflight without a model."""
    dataset: Dataset | None = None
    adapter: Adapter | None = None


@dataclass
class _Errors:
    found: list[FieldError] = field(default_factory=list)

    def add(self, path: str, value: object, sentence: str) -> None:
        self.found.append(FieldError(path, value, f"{path}: {sentence}"))


def look_up(spec: FinetuneSpec | LaunchSpec | PreflightSpec) -> Named:
    """The records behind the names in `spec`. Raises Refused with every error found."""
    errors = _Errors()
    model = _model(spec, errors) if spec.model else None
    if spec.resources.node and not Node.objects.filter(name=spec.resources.node).exists():
        errors.found.append(unknown_name("resources.node", "node", spec.resources.node, _names(Node)))
    dataset = adapter = None
    if isinstance(spec, FinetuneSpec):
        dataset = _dataset(spec, errors)
        _one_device(spec, errors)
    elif isinstance(spec, LaunchSpec):
        adapter = _adapter(spec, errors)
    if errors.found:
        raise Refused(errors.found)
    return Named(model, dataset, adapter)


def _model(spec: FinetuneSpec | LaunchSpec | PreflightSpec, errors: _Errors) -> ModelProfile | None:
    model = ModelProfile.objects.filter(name=spec.model).first()
    if model is None:
        errors.found.append(unknown_name("model", "model", spec.model or "", _names(ModelProfile)))
    elif not isinstance(spec, PreflightSpec) and model.context_length and spec.context_length > model.context_length:
        errors.add(
            "context_length",
            spec.context_length,
            f"{spec.context_length} tokens are more than {model.name} can hold; use at most {model.context_length}.",
        )
    return model


def _dataset(spec: FinetuneSpec, errors: _Errors) -> Dataset | None:
    dataset = Dataset.objects.filter(name=spec.dataset).first()
    if dataset is None:
        errors.found.append(unknown_name("dataset", "dataset", spec.dataset, _names(Dataset)))
    if spec.adapter and Adapter.objects.filter(name=spec.adapter).exists():
        errors.add("adapter", spec.adapter, f"there is already an adapter named {spec.adapter!r}; choose another name.")
    return dataset


def _one_device(spec: FinetuneSpec, errors: _Errors) -> None:
    if spec.resources.devices != 1:
        errors.add(
            "resources.devices",
            spec.resources.devices,
            f"{spec.resources.devices} devices can't be used by a fine-tune yet, which runs as one process; use 1.",
        )


def _adapter(spec: LaunchSpec, errors: _Errors) -> Adapter | None:
    if not spec.adapter:
        return None
    adapter = Adapter.objects.select_related("base_model").filter(name=spec.adapter).first()
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
