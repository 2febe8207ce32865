"""The plan form, built from the planner's request: strings in, a PlanRequest and a parsed config.json out.

Left empty, a field keeps its default, or stays the planner's choice. Knows no model, no hardware and no rule.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlencode

from django import forms
from django.urls import reverse
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from portal.jobs.forms import JobForm
from portal.planner.request import Fixed, PlanRequest, Workload
from workers.contract.errors import FieldError, Refused, from_pydantic

MOST_CONFIG = 2**18
"""Characters of a config.json; the longest published ones, with a class name for every output, have a fifth of that."""
PASTED = "pasted config"
"""What a model is called whose config was given without a name."""
GOALS = {
    "infer": "Serve it (inference)",
    "lora": "Fine-tune, LoRA",
    "qlora": "Fine-tune, QLoRA (4-bit weights)",
    "full": "Fine-tune every parameter",
}
FIRST = {
    "model": 12, "hardware": 8, "nodes": 4, "goal": 12, "context": 6, "batch": 6, "concurrency": 6, "lora_rank": 6,
    "lora_targets": 6, "trained_layers": 12, "trained_tokens": 6, "preference": 6,
}  # fmt: skip
"""What everyone is asked, and how much of the form's width it takes, in twelfths."""
GOALS_OF = {
    "batch": "training", "lora_rank": "adapters", "lora_targets": "adapters", "trained_layers": "full",
    "trained_tokens": "training", "preference": "training", "concurrency": "serving",
}  # fmt: skip
"""Field → the goals it matters to; other fields matter to all."""
CARRIED = ("dataset", "adapter", "objective")
"""Choices of a job form that the plan page gives back to it as they were."""
LABELS = {
    "zero_stage": "ZeRO stage", "kv_cache": "KV cache", "offload_optimizer": "Offload the optimizer",
    "offload_parameters": "Offload the parameters", "tensor_parallel": "Tensor parallel",
    "pipeline_parallel": "Pipeline parallel", "data_parallel": "Data parallel", "limit": "Plans to show",
}  # fmt: skip
HINTS = {
    "hardware": "'fleet': the nodes here. Or one of them, or such as 4xl4.", "nodes": "", "goal": "",
    "trained_tokens": "For the whole run's time and cost; 0 asks for none.",
}  # fmt: skip
EXAMPLES = {
    "model": "llama-3-8b", "hardware": "2x8-a100-80-25gbe", "lora_targets": "all-linear",
    "trained_layers": "every parameter",
}  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """One refusal. `field` is the form field's name, '' where it is of none; `label` is what the form calls it."""

    field: str
    label: str
    words: str


class PlanForm(forms.Form):
    """A question to the planner. `data` is a query or a posted form; what it leaves out has its default."""

    def __init__(self, data: Any) -> None:
        defaults = {name: _text(_default(info)) for name, info in _leaves()}
        super().__init__({**defaults, **{name: value for name, value in data.items() if value != ""}})
        self._options: dict[str, dict[str, Any]] = {}
        for name, info in _leaves():
            self.fields[name] = _form_field(name, info)
            if get_origin(_bare(info)) is Literal:
                self._options[name] = {str(option): option for option in get_args(_bare(info))}
        self.fields["config"] = forms.CharField(required=False, label="config.json", widget=_config_widget())
        for name in CARRIED:
            self.fields[name] = forms.CharField(required=False, max_length=200, widget=forms.HiddenInput)

    @property
    def asked(self) -> bool:
        """Whether there is anything to plan."""
        return bool(str(self.data.get("model", "")).strip() or str(self.data.get("config", "")).strip())

    @property
    def first(self) -> list[tuple[forms.BoundField, int, str]]:
        """(field, width in twelfths, goals it matters to) of what everyone is asked."""
        return [(self[name], width, GOALS_OF.get(name, "")) for name, width in FIRST.items()]

    @property
    def fixed(self) -> list[forms.BoundField]:
        """Choices that may be made already."""
        return [self[name] for name in (*Fixed.model_fields, "limit")]

    @property
    def has_fixed(self) -> bool:
        """Whether any of them is."""
        return any(self.data.get(name) for name in Fixed.model_fields)

    @property
    def has_config(self) -> bool:
        """Whether a config.json is given, which goes before the model's name."""
        return bool(str(self.data.get("config", "")).strip())

    def question(self) -> tuple[PlanRequest, dict[str, Any] | None]:
        """The request and the parsed config.json, if one was given. Raises Refused, a sentence a field."""
        if not self.is_valid():
            found = [(name, str(error)) for name, errors in self.errors.items() for error in errors]
            raise Refused([FieldError(name, None, f"{name}: {words}") for name, words in found])
        given = {
            name: self._options.get(name, {}).get(value, value)
            for name, value in self.cleaned_data.items()
            if value != ""
        }
        config = _parsed(given["config"]) if "config" in given else None
        if config is not None:
            given.setdefault("model", PASTED)
        nested = {
            "workload": {name: given[name] for name in Workload.model_fields if name in given},
            "fixed": {name: given[name] for name in Fixed.model_fields if name in given},
        }
        try:
            return PlanRequest.model_validate({**given, **nested}), config
        except ValidationError as error:
            raise Refused(from_pydantic(error)) from None

    def place(self, error: FieldError) -> tuple[str | None, str]:
        """(field's name, sentence) of a refusal; None for the name where it is no field's."""
        sentence = error.message.removeprefix(f"{error.field}: ")
        if error.field.startswith("config"):
            return "config", sentence
        name = error.field.rsplit(".", 1)[-1]
        return (name, sentence[:1].upper() + sentence[1:]) if name in self.fields else (None, error.message)

    @property
    def carried(self) -> dict[str, str]:
        """What a job form gave along and gets back."""
        return {name: self.cleaned_data[name] for name in CARRIED if self.cleaned_data.get(name)}


def said(refused: Refused, form: PlanForm | JobForm) -> list[Sentence]:
    """The refusal by the form's own words: each sentence with its field's label instead of the path."""
    placed = [form.place(error) for error in refused.errors]
    return [
        Sentence(name, str(form.fields[name].label), words) if name else Sentence("", "", words[:1].upper() + words[1:])
        for name, words in placed
    ]


def waits_for(sentences: list[Sentence]) -> str:
    """What keeps a form from its plan, as short as it goes."""
    labels = ", ".join(dict.fromkeys(sentence.label for sentence in sentences if sentence.field))
    return f"waits for: {labels}" if labels else "waits"


def plan_url(request: PlanRequest, carried: dict[str, str] | None = None) -> str:
    """The plan page's address with this question, without what is at its default; one can send it to a colleague."""
    plain = PlanRequest(model=request.model)
    pairs: list[tuple[str, str]] = []
    for asked, usual in ((request, plain), (request.workload, plain.workload), (request.fixed, plain.fixed)):
        for name in type(asked).model_fields:
            value = getattr(asked, name)
            if name not in ("workload", "fixed") and (name == "model" or value != getattr(usual, name)):
                pairs.append((name, _text(value)))
    return f"{reverse('plan')}?{urlencode([*pairs, *(carried or {}).items()])}"


def _leaves() -> Iterator[tuple[str, FieldInfo]]:
    for model in (PlanRequest, Workload, Fixed):
        yield from ((name, info) for name, info in model.model_fields.items() if name not in ("workload", "fixed"))


def _default(info: FieldInfo) -> Any:
    return "" if info.is_required() else info.get_default(call_default_factory=True)


def _bare(info: FieldInfo) -> Any:
    """The annotation without None."""
    options = [option for option in get_args(info.annotation) if option is not NoneType]
    if get_origin(info.annotation) is Literal or not options:
        return info.annotation
    return options[0]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _form_field(name: str, info: FieldInfo) -> forms.Field:
    bare, free = _bare(info), NoneType in get_args(info.annotation)
    label = LABELS.get(name) or info.title or name.replace("_", " ").capitalize()
    chosen: Iterable[tuple[str, str]] | None = None
    if name == "goal":
        chosen = GOALS.items()
    elif bare is bool:
        chosen = (("yes", "yes"), ("no", "no"))
    elif get_origin(bare) is Literal:
        chosen = [(str(option), str(option)) for option in get_args(bare)]
    if chosen is not None:
        choices = [("", "best of all"), *chosen] if free else list(chosen)
        widget: forms.Widget = forms.Select(choices=choices, attrs={"class": "form-select"})
    else:
        attrs = {"class": "form-control", "autocomplete": "off", "spellcheck": "false"}
        attrs["placeholder"] = EXAMPLES.get(name, "best of all" if free else "")
        if bare is int:
            attrs["inputmode"] = "numeric"
        if name in ("model", "hardware"):
            attrs["list"] = f"{name}-names"
        widget = forms.TextInput(attrs=attrs)
    hint = HINTS.get(name, info.description or "")
    return forms.CharField(required=False, label=label, help_text=hint, widget=widget, strip=True)


def _config_widget() -> forms.Widget:
    attrs = {
        "class": "form-control plan-config", "rows": 6, "spellcheck": "false", "autocomplete": "off",
        "placeholder": '{"model_type": "llama", "hidden_size": 4096, …}', "data-most": MOST_CONFIG,
    }  # fmt: skip
    return forms.Textarea(attrs=attrs)


def _parsed(text: str) -> dict[str, Any]:
    """A config.json. Raises Refused at 'config'."""
    if len(text) > MOST_CONFIG:
        raise Refused.at(
            "config", None, f"config: {len(text):,} characters are no config.json; use at most {MOST_CONFIG:,}."
        )
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        words = f"config: this is not JSON: {error.msg.lower()} in line {error.lineno}; paste the whole config.json."
        raise Refused.at("config", None, words) from None
    except (RecursionError, ValueError):
        raise Refused.at("config", None, "config: this is JSON that no model's config.json would hold.") from None
    if not isinstance(config, dict):
        raise Refused.at("config", None, "config: this is no object with named fields; paste the whole config.json.")
    return config
