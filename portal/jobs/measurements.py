"""What the planner said of an attempt, what the attempt measured, and what both teach the next plan.

Figures leave out what is taken before the model is there: on a GPU the driver's context, on a CPU the program itself.
Predictions are kept as they were before calibration, or factors fitted to them would wander. Knows no events.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from django.conf import settings
from pydantic import ValidationError

from portal.fleet.models import Node
from portal.jobs.models import Allocation, Attempt, Measurement
from portal.jobs.plan_names import fleet_of, resolve_model, stored
from portal.jobs.plan_specs import of_spec
from portal.planner.answer import Calibrated
from portal.planner.calibration import Calibration, Observation, fit, method_key
from portal.planner.request import PlanRequest
from portal.planner.rules import Rules
from portal.planner.search import Search, Way
from workers.contract.errors import Refused, from_pydantic
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec
from workers.contract.measured import Measured
from workers.contract.spec import JOB_SPEC

log = logging.getLogger(__name__)
PlannedSpec = FinetuneSpec | LaunchSpec
REMEMBERED = 400
"""Measurements that the next plan is calibrated with, the latest ones."""


@dataclass(frozen=True)
class Predicted:
    """The planner's figures for one attempt. Bytes on the fullest device, seconds of a step or token."""

    device: str
    method: str
    peak_bytes: int
    step_s: float
    tokens_per_s: float


def rules() -> Rules:
    """The rules of thumb in force, from LIFTOFF_RULES."""
    found: Rules = settings.LIFTOFF_RULES
    return found


def calibration() -> Calibration:
    """Factors from the latest measurements here; none where the database can't be read."""
    return stored(lambda: fit(observations())) or Calibration()


def observations() -> list[Observation]:
    """The latest measurements as the planner takes them, oldest first."""
    rows = list(Measurement.objects.order_by("-at", "-pk")[:REMEMBERED])
    return [
        Observation(
            device=row.device,
            key=row.method,
            predicted_bytes=row.predicted_bytes,
            measured_bytes=row.measured_bytes,
            predicted_step_s=row.predicted_step_s,
            measured_step_s=row.measured_step_s,
        )
        for row in reversed(rows)
    ]


@dataclass(frozen=True)
class Lesson:
    """What the latest runs of one kind taught. `median_error` is that of the planner's bytes uncorrected, as a fraction
    of what was measured; `calibrated` None: too few runs."""

    device: str
    method: str
    runs: int
    median_error: float
    calibrated: Calibrated | None


def lessons() -> list[Lesson]:
    """By device and method, the most runs first."""
    seen = observations()
    factors = fit(seen)
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in seen:
        if one.predicted_bytes and one.measured_bytes:
            groups[one.device, one.key].append(abs(one.predicted_bytes / one.measured_bytes - 1))
    found = [
        Lesson(device, method, len(errors), median(errors), factors.factor(device, method))
        for (device, method), errors in groups.items()
    ]
    return sorted(found, key=lambda lesson: (-lesson.runs, lesson.device, lesson.method))


def predict(attempt: Attempt) -> None:
    """Store what the planner expects of a new attempt on its devices. A model that can't be planned goes without;
    nothing here may keep an attempt from starting."""
    predict_all([attempt])


def predict_all(attempts: Sequence[Attempt]) -> None:
    """The same for several; those that are alike are planned once."""
    alike: dict[Hashable, list[Attempt]] = defaultdict(list)
    nodes = Node.objects.in_bulk({attempt.node_id for attempt in attempts})
    devices = _devices(attempts)
    for attempt in attempts:
        attempt.node = nodes[attempt.node_id]
        alike[_planned_by(attempt, devices[attempt.pk])].append(attempt)
    for same in alike.values():
        predicted = _tried(same[0], partial(_predicted, attempt=same[0]))
        if predicted is not None:
            Attempt.objects.filter(pk__in=[one.pk for one in same]).update(predicted=vars(predicted))


def _devices(attempts: Sequence[Attempt]) -> dict[int, list[Hashable]]:
    """Attempt → what is known of each of its devices."""
    found: dict[int, list[Hashable]] = defaultdict(list)
    held = Allocation.objects.filter(attempt__in=attempts).order_by("accelerator__kind", "accelerator__index")
    columns = ("kind", "name", "memory_bytes", "compute_capability")
    for attempt, *device in held.values_list("attempt_id", *(f"accelerator__{column}" for column in columns)):
        found[attempt].append(tuple(device))
    return found


def _planned_by(attempt: Attempt, devices: Sequence[Hashable]) -> Hashable:
    """All that a prediction depends on: the spec without what doesn't change its work, and the devices."""
    spec = {key: value for key, value in attempt.job.spec.items() if key not in ("name", "seed", "priority", "adapter")}
    node = attempt.node
    return json.dumps(spec), *devices, node.cores, node.ram_bytes, node.disk_read_bytes_per_s


def record(attempt: Attempt, values: dict[str, Any]) -> Measurement | None:
    """Store what an attempt measured beside what the planner says of just that: of its longest sequence, which may be
    shorter than the context it was given. Once for an attempt; None where nothing can be compared."""
    if (first := Measurement.objects.filter(attempt=attempt).first()) is not None:
        return first
    try:
        measured = Measured.model_validate(values)
    except ValidationError as error:
        sentences = " ".join(item.message for item in from_pydantic(error))
        log.warning("what job %s measured was dropped: %s", attempt.job_id, sentences)
        return None
    taken = measured.peak_bytes - measured.baseline_bytes
    peak = _tried(attempt, lambda spec: _predicted(spec, attempt, measured.sequence_tokens))
    step = _tried(attempt, lambda spec: _predicted(spec, attempt, _median_sequence(spec, measured)))
    if peak is None or step is None or taken <= 0:
        return None
    found, _ = Measurement.objects.get_or_create(
        attempt=attempt,
        defaults={
            "device": peak.device,
            "method": peak.method,
            "basis": measured.basis,
            "sequence_tokens": measured.sequence_tokens,
            "predicted_bytes": peak.peak_bytes,
            "measured_bytes": taken,
            "predicted_step_s": step.step_s,
            "measured_step_s": measured.step_s,
        },
    )
    return found


def _median_sequence(spec: PlannedSpec, measured: Measured) -> int:
    """Tokens of a sequence in the median step; when serving, of the longest."""
    if not isinstance(spec, FinetuneSpec) or not measured.step_tokens:
        return measured.sequence_tokens
    sequences = of_spec(spec).workload.sequences
    return max(1, round(measured.step_tokens / (spec.micro_batch * spec.gradient_accumulation * sequences)))


def _tried(attempt: Attempt, plan: Callable[[PlannedSpec], Predicted | None]) -> Predicted | None:
    """What `plan` says of the attempt's spec; None, with the reason in the log, where it can't say anything."""
    try:
        spec = JOB_SPEC.validate_python(attempt.job.spec)
        return plan(spec) if isinstance(spec, FinetuneSpec | LaunchSpec) else None
    except Refused as refused:
        log.info("job %s can't be planned: %s", attempt.job_id, refused)
    except Exception:  # planning is never a reason for a run, or the record of its events, to fail
        log.exception("job %s could not be planned", attempt.job_id)
    return None


def _predicted(spec: PlannedSpec, attempt: Attempt, tokens: int | None = None) -> Predicted | None:
    """For sequences of `tokens`, or of the spec's context; None where the planner knows no way. Raises Refused."""
    held = {allocation.accelerator_id for allocation in attempt.allocations.all()}
    fleet = fleet_of(attempt.node.name, [attempt.node], lambda device: device.pk in held)
    request = of_spec(spec, fleet)
    if tokens is not None:
        workload = request.workload.model_copy(update={"context": tokens})
        request = request.model_copy(update={"workload": workload})
    search = Search(resolve_model(spec.model), request.workload, request.fixed, fleet, rules())
    way = next(iter(search.ways()), None)
    return _figures(way, request) if way is not None else None


def _figures(way: Way, request: PlanRequest) -> Predicted:
    return Predicted(
        device=way.device.name,
        method=method_key(request.workload.kind, way.method, request.workload.preference),
        peak_bytes=sum(line.expected for line in way.memory.lines if line.name != "context"),
        step_s=way.speed.step_s,
        tokens_per_s=way.speed.tokens_per_s,
    )
