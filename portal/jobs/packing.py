"""Bytes that a waiting job is planned to take of a device, where the policy lets jobs of its kind share one.

By the planner, calibrated by earlier runs; the most that any device which answers the job's wishes would see. A job
that can't be planned gets a device alone. Decides nothing (scheduler).
"""

import logging
from collections.abc import Hashable

from django.conf import settings

from portal.fleet.models import Accelerator
from portal.fleet.selectors import nodes
from portal.jobs.measurements import calibration, rules
from portal.jobs.plan_names import WHOLE_FLEET, fleet_of, resolve_model
from portal.jobs.plan_specs import of_spec
from portal.jobs.scheduler import GIB, Policy
from portal.planner.search import Search
from workers.contract.errors import Refused
from workers.contract.spec import FinetuneSpec, LaunchSpec, PreflightSpec, Resources

log = logging.getLogger(__name__)


def device_kinds() -> Hashable:
    """Another one where the fleet has other devices, so that jobs are planned anew; None where nobody shares."""
    policy: Policy = settings.LIFTOFF_SCHEDULING
    if not policy.packs:
        return None
    kinds = Accelerator.objects.filter(present=True).order_by("node", "name", "memory_bytes")
    return tuple(kinds.values_list("node", "name", "memory_bytes").distinct())


def planned_bytes(spec: FinetuneSpec | LaunchSpec | PreflightSpec) -> int | None:
    """None for a job that gets its devices alone."""
    policy: Policy = settings.LIFTOFF_SCHEDULING
    if spec.kind not in policy.packs or isinstance(spec, PreflightSpec) or spec.resources.devices != 1:
        return None
    try:
        fleet = fleet_of(WHOLE_FLEET, nodes(), lambda device: _wanted(device, spec.resources))
        request = of_spec(spec, fleet)
        search = Search(resolve_model(spec.model), request.workload, request.fixed, fleet, rules(), calibration())
        return max((way.memory.high for way in search.ways()), default=None)
    except Refused as refused:
        log.info("a job on %s gets a device alone: %s", spec.model, refused)
    except Exception:  # planning is never a reason for the queue to stand still
        log.exception("a job on %s could not be planned", spec.model)
    return None


def _wanted(device: Accelerator, wishes: Resources) -> bool:
    if wishes.node and device.node.name != wishes.node:
        return False
    return wishes.device_kind in ("any", device.kind) and device.memory_bytes >= wishes.min_memory_gib * GIB
