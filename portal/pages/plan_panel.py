"""The live panel beside a job form: whether the job fits as it is filled in, and what to change where it doesn't.

An unfinished form is no error here. Stores nothing; knows nothing of how a plan is made.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST
from pydantic import ValidationError

from portal.accounts.requests import SignedInRequest
from portal.jobs import planning
from portal.jobs.forms import JobForm
from portal.jobs.measurements import calibration
from portal.jobs.plan_names import fleet_for
from portal.pages.ds_config_text import ds_config_text
from portal.pages.plan_drawing import Bar, memory_bar
from portal.pages.plan_forms import CARRIED, Sentence, plan_url, said, waits_for
from portal.planner.answer import Plan, PlanAnswer
from portal.planner.plan import plan
from workers.contract.errors import Refused, from_pydantic
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec

SPECS: dict[str, type[FinetuneSpec] | type[LaunchSpec]] = {"finetune": FinetuneSpec, "launch": LaunchSpec}
UNNAMED = "not-chosen-yet"
"""Stands for a dataset that isn't chosen yet: what a job takes can be said without it."""
FILLED = {
    "finetune": (
        "micro_batch", "gradient_accumulation", "gradient_checkpointing", "deepspeed__zero_stage",
        "deepspeed__offload_optimizer", "deepspeed__offload_parameters",
    ),
    "launch": ("quantization",),
}  # fmt: skip
"""Fields of the job form that another plan may set; what is asked for stays."""
FREED = {
    "finetune": ("micro_batch", "gradient_checkpointing", "zero_stage", "offload_optimizer", "offload_parameters"),
    "launch": ("quantization",),
}
"""The planner's choices behind them."""


@dataclass(frozen=True)
class Alternative:
    """A plan for the same question that fits, and the form's values that make it so; '' empties or unticks a field."""

    plan: Plan
    values: dict[str, str]

    @property
    def values_json(self) -> str:
        return json.dumps(self.values)


@dataclass(frozen=True)
class Judged:
    """What the panel shows: sentences about what is missing, or an answer."""

    sentences: list[Sentence] = field(default_factory=list)
    answer: PlanAnswer | None = None
    bar: Bar | None = None
    alternative: Alternative | None = None
    more_url: str = ""
    ds_config: str = ""
    """The job's DeepSpeed config as text; '' where it has none."""

    @property
    def waits_for(self) -> str:
        """What is missing, as short as it goes."""
        return waits_for(self.sentences)

    @property
    def plan(self) -> Plan | None:
        """The job as it is filled in, at the place where it fits best."""
        return self.answer.plans[0] if self.answer and self.answer.plans else None


@require_POST
@login_required
def job_panel(request: SignedInRequest) -> HttpResponse:
    """The panel for a job form as it is now, always with status 200."""
    kind = request.GET.get("kind", "")
    if kind not in SPECS:
        raise Http404("There is no plan for this kind of job.")
    return render(request, "plans/_panel.html", {"judged": judged(JobForm(kind, data=request.POST)), "kind": kind})


def judged(form: JobForm) -> Judged:
    """Whether the form's job fits."""
    try:
        spec = _spec(form)
        answer = planning.judge(spec)
    except Refused as refused:
        return Judged(sentences=said(refused, form))
    asked = planning.of_spec(spec)
    alternative = _alternative(spec) if answer.verdict != "fits" else None
    free = asked.model_copy(update={"fixed": type(asked.fixed)(), "limit": 5})
    carried = {name: form.cleaned_data[name] for name in CARRIED if form.cleaned_data.get(name)}
    return Judged(
        answer=answer,
        bar=memory_bar(answer.plans[0].memory) if answer.plans else None,
        alternative=alternative,
        more_url=plan_url(free, carried),
        ds_config=ds_config_text(spec) if isinstance(spec, FinetuneSpec) else "",
    )


def _alternative(spec: FinetuneSpec | LaunchSpec) -> Alternative | None:
    """The best plan that fits where the job may run and that the form can take, with what was asked for as it is."""
    shape, fleet = planning.resolve_model(spec.model), fleet_for(spec.resources)
    asked = planning.of_spec(spec, fleet)
    fixed = asked.fixed.model_copy(update=dict.fromkeys(FREED[spec.kind]))
    free = asked.model_copy(update={"fixed": fixed, "limit": 10})
    for other in plan(free, shape, fleet, planning.rules(), calibration()).plans:
        if other.memory.verdict == "fits" and planning.unusable(other, free) is None:
            values = planning.form_values(other, free)
            return Alternative(other, {name: values.get(name, "") for name in FILLED[spec.kind]})
    return None


def _spec(form: JobForm) -> FinetuneSpec | LaunchSpec:
    """The form's job. Raises Refused."""
    if not form.is_valid():
        raise Refused.at("spec", None, "A field holds characters that can't be stored.")
    values: dict[str, Any] = form.to_spec()
    if not values.get("model"):
        raise Refused.at("model", None, "model: choose one to see whether it fits.")
    if form.kind == "finetune":
        values.setdefault("dataset", UNNAMED)
    try:
        return SPECS[form.kind].model_validate(values)
    except ValidationError as error:
        raise Refused(from_pydantic(error)) from None
