"""Asks the planner: for a request with its names, and for a job's spec with all that it fixes.

Calibrated by what earlier runs here measured. Writes nothing. Knows nothing of pages or routes.
"""

from typing import Any

from portal.jobs import spreading
from portal.jobs.measurements import calibration, rules
from portal.jobs.plan_names import fleet_for, hardware_names, model_names, resolve_hardware, resolve_model
from portal.jobs.plan_specs import form_values, of_spec, unusable
from portal.planner.answer import PlanAnswer
from portal.planner.plan import plan
from portal.planner.request import PlanRequest
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec

__all__ = [
    "answer", "form_values", "hardware_names", "judge", "model_names", "of_spec", "resolve_hardware", "resolve_model",
    "rules", "unusable",
]  # fmt: skip


def answer(request: PlanRequest, model_config: dict[str, Any] | None = None) -> PlanAnswer:
    """The plans of `request`; `model_config` is a parsed config.json that goes before the model's name.

    Raises Refused at 'model', 'config…', 'hardware' or 'nodes'.
    """
    shape = resolve_model(request.model, model_config)
    fleet = resolve_hardware(request.hardware, request.nodes)
    return plan(request, shape, fleet, rules(), calibration())


def judge(spec: FinetuneSpec | LaunchSpec) -> PlanAnswer:
    """Whether a job of this spec fits where it may run, how fast it is, and what would fit.

    Raises Refused at 'model', 'parallel…' or 'resources'.
    """
    if isinstance(spec, FinetuneSpec):
        spreading.check(spec)
    shape = resolve_model(spec.model)
    fleet = fleet_for(spec.resources)
    return plan(of_spec(spec, fleet), shape, fleet, rules(), calibration())
