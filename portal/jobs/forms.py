"""The job form, built from the contract's pydantic models: one field a spec field, one group a nested model.

It turns strings into a spec and puts refusals on their fields; it validates nothing itself. Knows no rule of its own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from django import forms
from django.contrib.auth.models import User
from django.db.models import Model
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.fleet.models import Node
from portal.jobs import load_tests, services
from portal.jobs.models import Job
from workers.contract.deepspeed import DeepSpeedSettings
from workers.contract.errors import FieldError, Refused
from workers.contract.spec import SPECS

NOT_ASKED = ("kind", "spec_version")
OF_FINETUNES = ("resources__nodes",)
"""Asked of no other kind of job."""
OF_DEVICES = (
    "resources__device_kind", "resources__devices", "resources__min_memory_gib", "resources__labels",
    "resources__preferred_labels",
)  # fmt: skip
"""Not asked of a load test, which takes none and runs beside its launch."""
FIRST: dict[str, tuple[str, ...]] = {
    "finetune": (
        "model", "dataset", "objective", "method", "name", "adapter", "epochs", "max_steps", "micro_batch",
        "gradient_accumulation", "context_length", "learning_rate", "lora__rank", "lora__alpha",
    ),
    "launch": (
        "model", "adapter", "name", "quantization", "replicas", "context_length", "max_tokens", "temperature", "top_p",
    ),
    "export": ("model", "adapter", "format", "result", "name"),
    "quantize": ("model", "adapter", "method", "bits", "group_size", "dataset", "result", "name"),
    "preflight": ("resources__node", "resources__devices", "model", "name"),
    "load_test": (
        "launch", "concurrency", "step_s", "max_tokens", "target__figure", "target__bound_ms", "dataset", "name",
        "prompts",
    ),
}  # fmt: skip
EMPTY: dict[str, dict[str, str]] = {
    "export": {"adapter": "none: the model as it is"},
    "quantize": {"adapter": "none: the model as it is", "dataset": "none: a built-in text"},
    "preflight": {"resources__node": "choose one", "model": "none: the node alone"},
    "load_test": {"resources__node": "the launch's", "dataset": "none: the prompts below"},
}
"""Kind → field → what its empty choice says, where that is not what other kinds say."""


@dataclass(frozen=True)
class Words:
    """What the page of a kind's form says around its fields."""

    title: str
    heading: str
    advanced: str
    button: str


WORDS = {
    "finetune": Words(
        "New fine-tune", "Fine-tune a model", "optimizer, precision, DeepSpeed, where it runs", "Start fine-tune"
    ),
    "launch": Words("New launch", "Launch a model", "precision, seed, preflight, where it runs", "Launch"),
    "export": Words("New export", "Export a model", "where it runs", "Start export"),
    "quantize": Words("New quantization", "Quantize a model", "samples, iterations, where it runs", "Start quantizing"),
    "preflight": Words("New preflight", "Check a node", "which of its devices", "Start preflight"),
    "load_test": Words(
        "New load test", "Load test a launch", "requests instead of seconds, errors, timeout", "Start load test"
    ),
}
LABELS = ("resources__labels", "resources__preferred_labels")
DS_CONFIG = "deepspeed__config"
TEXTS = (DS_CONFIG, "prompts")
"""Several lines each."""
HINTS = dict.fromkeys(LABELS, "Write key=value, with commas between.")
GROUPS = {
    "": "More settings",
    "checkpoints": "Checkpoints",
    "lora": "LoRA",
    "dpo": "Preference tuning",
    "data": "Data",
    "deepspeed": "DeepSpeed",
    "numerics": "Numbers and kernels",
    "target": "Target",
    "parallel": "Tensor and pipeline parallel",
    "resources": "Where it runs",
    "retry": "When it fails",
}


@dataclass
class Group:
    """Fields shown together. `fields` are bound fields."""

    title: str
    fields: list[forms.BoundField] = field(default_factory=list)

    @property
    def words(self) -> str:
        """What is in it, while it is folded."""
        return ", ".join(str(each.label) for each in self.fields)

    @property
    def has_error(self) -> bool:
        """Whether it must be open for its error to be seen."""
        return any(each.errors for each in self.fields)


def flat(spec: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(form field name, value) of every value of a spec: {'lora': {'rank': 8}} → ('lora__rank', 8)."""
    for key, value in spec.items():
        if prefix + key == DS_CONFIG:
            yield DS_CONFIG, json.dumps(value) if value else ""
        elif isinstance(value, dict) and prefix + key not in LABELS:
            yield from flat(value, f"{prefix}{key}__")
        else:
            yield f"{prefix}{key}", value


class JobForm(forms.Form):
    """A form for one kind of job. `spec` prefills it (defaults, a clone, or choices made elsewhere)."""

    def __init__(self, kind: str, *, data: Any = None, spec: dict[str, Any] | None = None) -> None:
        super().__init__(data)
        self.kind = kind
        self._options: dict[str, dict[str, Any]] = {}
        for name, info in _leaves(SPECS[kind]):
            if (name in OF_FINETUNES and kind != "finetune") or (name in OF_DEVICES and kind == "load_test"):
                continue
            self.fields[name] = _form_field(name, info, EMPTY.get(kind, {}))
            if get_origin(info.annotation) is Literal:
                self._options[name] = {str(option): option for option in get_args(info.annotation)}
            if name not in FIRST[kind]:
                self.fields[name].widget.attrs["data-default"] = _default(self.fields[name].initial)
        self.initial = {name: shown(value) for name, value in flat(spec or {}) if name in self.fields}

    @property
    def words(self) -> Words:
        """What its page says."""
        return WORDS[self.kind]

    @property
    def first(self) -> Group:
        """What everyone fills in."""
        return Group("", [self[name] for name in FIRST[self.kind]])

    @property
    def advanced(self) -> list[Group]:
        """The rest, by nested model."""
        groups = {prefix: Group(title) for prefix, title in GROUPS.items()}
        for name in self.fields:
            if name not in FIRST[self.kind]:
                prefix = name.split("__")[0] if "__" in name else ""
                groups[prefix].fields.append(self[name])
        return [group for group in groups.values() if group.fields]

    @property
    def wanting(self) -> list[str]:
        """What the job needs one of, and there is none of."""
        if self.kind == "load_test":
            return [] if load_tests.running() else ["running launch"]
        needed: dict[str, dict[str, type[Model]]] = {
            "finetune": {"model": ModelProfile, "dataset": Dataset},
            "launch": {"model": ModelProfile},
            "export": {"model": ModelProfile},
            "quantize": {"model": ModelProfile},
            "preflight": {"node": Node},
        }
        return [name for name, records in needed[self.kind].items() if not records._default_manager.exists()]

    @property
    def advanced_has_error(self) -> bool:
        """Whether the folded part must be open for its error to be seen."""
        return any(group.has_error for group in self.advanced)

    def submit(self, user: User, cloned_from: Job | None = None) -> Job | None:
        """Submit the job; None when it was refused, with each sentence on its field."""
        if not self.is_valid():
            return None
        try:
            job, _ = services.submit(user, self.to_spec(), cloned_from=cloned_from)
        except Refused as refused:
            for error in refused.errors:
                self.add_error(*self.place(error))
            return None
        return job

    def place(self, error: FieldError) -> tuple[str | None, str]:
        """(field's name, sentence) of a refusal; None for the name where it is no field's."""
        name = error.field.replace(".", "__")
        if name not in self.fields:
            name = next((known for known in self.fields if known.startswith(f"{name}__")), "")
        sentence = error.message.removeprefix(f"{error.field}: ")
        if isinstance(error.value, str) and error.value and name in LABELS:
            sentence = f'"{error.value}" names no labels; {HINTS[name].lower()}'
        return (name, sentence[:1].upper() + sentence[1:]) if name else (None, error.message)

    def to_spec(self) -> dict[str, Any]:
        """The contract's shape; what was left empty is absent, so that its default holds."""
        spec: dict[str, Any] = {"kind": self.kind}
        for name, value in self.cleaned_data.items():
            if value in ("", None):
                continue
            *path, last = name.split("__")
            target = spec
            for part in path:
                target = target.setdefault(part, {})
            target[last] = _labels(value) if name in LABELS else self._options.get(name, {}).get(value, value)
        if "zero_stage" not in spec.get("deepspeed", {}):
            spec.pop("deepspeed", None)
        return spec


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in model.model_fields.items():
        if name in NOT_ASKED:
            continue
        nested = _nested(info.annotation)
        if nested is not None:
            yield from _leaves(nested, f"{prefix}{name}__")
        else:
            yield prefix + name, info


def _nested(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _form_field(name: str, info: FieldInfo, empty: dict[str, str]) -> forms.Field:
    hint = " ".join(filter(None, (info.description, HINTS.get(name))))
    common: dict[str, Any] = {"label": info.title or name, "help_text": hint, "required": False}
    if info.annotation is bool:
        tick = forms.CheckboxInput(attrs={"class": "form-check-input"})
        return forms.BooleanField(**common, initial=info.default, widget=tick)
    choices = _choices(name, info, empty)
    if choices is not None:
        widget: forms.Widget = forms.Select(choices=choices, attrs={"class": "form-select"})
    elif name in TEXTS:
        widget = forms.Textarea(
            attrs={"class": "form-control font-monospace", "rows": 3 if name == DS_CONFIG else 6, "spellcheck": "false"}
        )
    else:
        attrs = {"class": "form-control", "autocomplete": "off"}
        if info.annotation in (int, float):
            attrs["inputmode"] = "numeric" if info.annotation is int else "decimal"
        widget = forms.TextInput(attrs=attrs)
    initial = "" if info.is_required() else shown(info.get_default(call_default_factory=True))
    if name == "deepspeed__zero_stage":
        initial = ""
    return forms.CharField(**common, initial=initial, widget=widget, strip=True)


def _choices(name: str, info: FieldInfo, empty: dict[str, str]) -> list[tuple[str, str]] | None:
    records: dict[str, Any] = {"model": ModelProfile, "dataset": Dataset, "adapter": Adapter, "resources__node": Node}
    if name == "launch":
        running = [(str(one.job_id), f"#{one.job_id} {one.job.name}") for one in load_tests.running()]
        return running if len(running) == 1 else [("", "choose one"), *running]
    if name == "deepspeed__zero_stage":
        stages = get_args(DeepSpeedSettings.model_fields["zero_stage"].annotation)
        return [("", "off: the plain trainer"), *((str(stage), f"ZeRO stage {stage}") for stage in stages)]
    if get_origin(info.annotation) is Literal:
        return [(str(option), str(option)) for option in get_args(info.annotation)]
    if name in records and not (name == "adapter" and "generated" in (info.description or "")):
        optional = NoneType in get_args(info.annotation)
        said = {"resources__node": "any node", "adapter": "none: the base model", **empty}.get(name, "choose one")
        rows = records[name].objects.order_by("name")
        if name == "adapter":
            known = [(row.name, f"{row.name} (on {row.base_model.name})") for row in rows.select_related("base_model")]
        else:
            known = [(option, option) for option in rows.values_list("name", flat=True)]
        return [("", said), *known] if optional or len(known) != 1 else known
    return None


def shown(value: Any) -> Any:
    """A spec's value as pages show it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={label}" for key, label in value.items())
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return f"{value:.12g}" if abs(value) >= 1e-4 or value == 0 else f"{value:g}"
    return value


def _default(initial: Any) -> str:
    """A field's default as the page's script compares it."""
    return str(initial).lower() if isinstance(initial, bool) else str("" if initial is None else initial)


def _labels(text: str) -> Any:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        return text
    return {key.strip(): value.strip() for key, _, value in pairs}
