"""What a waiting job is expected to take: seconds, and bytes of a device where the policy lets its kind share one.

By the planner, calibrated by earlier runs, on the devices that answer the job's wishes; the most that any of them would
see. A job that can't be planned has no forecast: it gets devices alone and goes before nobody. Decides nothing
(scheduler).
"""

import logging
from collections.abc import Hashable
from typing import NamedTuple

from django.conf import settings

from portal.fleet.models import Accelerator, Node
from portal.fleet.selectors import nodes
from portal.jobs.measurements import calibration, rules
from portal.jobs.plan_names import WHOLE_FLEET, answers, fleet_of, resolve_model
from portal.jobs.plan_specs import of_spec
from portal.jobs.scheduler import Policy
from portal.planner.calibration import Calibration
from portal.planner.hardware import Fleet
from portal.planner.search import Search
from workers.contract.errors import Refused
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec
from workers.contract.resources import Resources
from workers.contract.spec import Spec

log = logging.getLogger(__name__)

START_S = 60.0
"""To start, read the model, and measure before and after."""
MARGIN = 1.5
"""Of the planner's seconds: who goes before another one must be over in time."""
UNALIKE = {"name": True, "adapter": True, "seed": True, "priority": True, "retry": True, "preemptible": True}
"""What of a spec changes nothing of its forecast."""


class Forecast(NamedTuple):
    """None for what nobody knows; `planned_bytes` also where the job gets its devices alone."""

    seconds: float | None = None
    planned_bytes: int | None = None


NONE = Forecast()


class Forecasts:
    """Of the fleet as it was when `device_kinds` was read. Jobs that are alike are planned once."""

    def __init__(self) -> None:
        self._known: dict[str, Forecast] = {}
        self._nodes: list[Node] = list(nodes())
        self._fleets: dict[str, Fleet] = {}
        self._calibration: Calibration = calibration()

    def of(self, spec: Spec, key: str, *, in_haste: bool = False) -> Forecast | None:
        """The job's forecast; `key`: of `alike`. None if it is asked `in_haste` and must be planned first.

        One that may share a device is planned in any case: it would get it alone meanwhile.
        """
        if not isinstance(spec, FinetuneSpec | LaunchSpec) or (spec.kind == "launch" and not _may_share(spec)):
            return NONE
        if key not in self._known:
            if in_haste and not _may_share(spec):
                return None
            self._known[key] = self._tried(spec)
        return self._known[key]

    def _tried(self, spec: FinetuneSpec | LaunchSpec) -> Forecast:
        try:
            return self._planned(spec)
        except Refused as refused:
            log.info("a job on %s has no forecast: %s", spec.model, refused)
        except Exception:  # planning is never a reason for the queue to stand still
            log.exception("a job on %s could not be planned", spec.model)
        return NONE

    def _planned(self, spec: FinetuneSpec | LaunchSpec) -> Forecast:
        fleet = self._fleet(spec.resources)
        request = of_spec(spec, fleet)
        model = resolve_model(spec.model)
        ways = Search(model, request.workload, request.fixed, fleet, rules(), self._calibration).ways()
        totals = [way.speed.total_s for way in ways if way.speed.total_s is not None]
        return Forecast(
            seconds=max(totals) * MARGIN + START_S if totals and spec.kind == "finetune" else None,
            planned_bytes=max((way.memory.high for way in ways), default=None) if _may_share(spec) else None,
        )

    def _fleet(self, wishes: Resources) -> Fleet:
        """Every device that answers them, whether its node is online or not."""
        key = wishes.model_dump_json(include={"device_kind", "min_memory_gib", "node"})
        if key not in self._fleets:
            self._fleets[key] = fleet_of(WHOLE_FLEET, self._nodes, lambda device: _wanted(device, wishes))
        return self._fleets[key]


def alike(spec: Spec) -> str:
    """The same for all jobs that have the same forecast."""
    return spec.model_dump_json(exclude=UNALIKE)


def device_kinds() -> Hashable:
    """Another one where the fleet has other devices or others may share them, so that jobs are planned anew."""
    policy: Policy = settings.LIFTOFF_SCHEDULING
    kinds = Accelerator.objects.filter(present=True).order_by("node", "name", "memory_bytes")
    return policy.packs, *kinds.values_list("node", "name", "memory_bytes").distinct()


def _may_share(spec: FinetuneSpec | LaunchSpec) -> bool:
    policy: Policy = settings.LIFTOFF_SCHEDULING
    return spec.kind in policy.packs and spec.resources.devices == 1


def _wanted(device: Accelerator, wishes: Resources) -> bool:
    return wishes.node in (None, device.node.name) and answers(device, wishes)
