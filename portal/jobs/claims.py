"""Gives jobs the devices they were placed on: their next attempts, many in one commit, and the orders sent after it.

Each job is had by one claim, and so is each device, or each byte of a shared one, whoever else tries. Does not decide
who starts where (scheduler).
"""

from collections import defaultdict
from collections.abc import Sequence

from django.db import IntegrityError, transaction
from django.db.models import F

from portal.fleet.models import Accelerator
from portal.jobs import dispatch, measurements, members, orders
from portal.jobs.ending import fail_queued
from portal.jobs.lifecycle import Status
from portal.jobs.models import Allocation, Attempt, Job, Transition
from portal.jobs.notify import jobs_changed
from portal.jobs.scheduler import Placement
from workers.contract.errors import Refused
from workers.contract.order import Order
from workers.contract.reasons import Reason

BATCH = 100
"""Claims in one commit; their orders are sent before the next ones are made."""


def allocate(placement: Placement) -> bool:
    """Give the placement's devices to its job's next attempt and dispatch it on commit.

    Returns False when the job or a device was taken meanwhile; then nothing has changed.
    """
    return allocate_all([placement]) == 1


def allocate_all(placements: Sequence[Placement]) -> int:
    """The same for several; how many there were. What keeps one from starting keeps no other."""
    attempts: list[Attempt] = []
    for at in range(0, len(placements), BATCH):
        attempts += _claim(placements[at : at + BATCH])
    measurements.predict_all([attempt for attempt in attempts if attempt.nodes == 1])
    return len(attempts)


def _claim(placements: Sequence[Placement]) -> list[Attempt]:
    """All in one commit; where that can't be, each in its own."""
    try:
        return _commit(placements)
    except (IntegrityError, Taken, Refused) as error:
        if len(placements) > 1:
            return [attempt for placement in placements for attempt in _claim([placement])]
        if isinstance(error, Refused):
            fail_queued(placements[0].job, Reason.INVALID_INPUT, str(error))
        return []


class Taken(Exception):
    """A device has no room for the claim."""


@transaction.atomic
def _commit(placements: Sequence[Placement]) -> list[Attempt]:
    """Claims of those that still wait. Raises IntegrityError or Taken: a device is held; Refused: what one names is
    gone."""
    waiting = Job.objects.filter(pk__in=[placement.job for placement in placements], status=Status.QUEUED)
    jobs = {job.pk: job for job in waiting.select_for_update().order_by("pk")}
    claimed = [placement for placement in placements if placement.job in jobs]
    if not claimed:
        return []
    _check_room(claimed)
    teams = orders.build([(jobs[placement.job], placement) for placement in claimed])
    made = [team[0] for team in teams]
    Job.objects.filter(pk__in=list(jobs), status=Status.QUEUED).update(
        status=Status.DISPATCHED,
        attempt_number=F("attempt_number") + 1,
        waiting_for="",
        queue_position=None,
        expected_start_at=None,
        not_before=None,
    )
    attempts = Attempt.objects.bulk_create(
        Attempt(
            job=jobs[order.job],
            number=order.attempt,
            node_id=placement.node,
            nodes=len(placement.parts),
            order=order.model_dump(mode="json", exclude={"serve_token"}),
            token=order.token,
        )
        for order, placement in zip(made, claimed, strict=True)
    )
    members.join(zip(attempts, claimed, teams, strict=True))
    Allocation.objects.bulk_create(
        Allocation(attempt=attempt, accelerator_id=device, reserved_bytes=placement.reserved_bytes)
        for attempt, placement in zip(attempts, claimed, strict=True)
        for device in placement.all_devices
    )
    Transition.objects.bulk_create(
        Transition(
            job_id=order.job,
            attempt_number=order.attempt,
            old=Status.QUEUED,
            new=Status.DISPATCHED,
            note=_sent(team),
        )
        for order, team in zip(made, teams, strict=True)
    )
    transaction.on_commit(lambda: dispatch.begin([order for team in teams for order in team]))
    jobs_changed(list(jobs))
    return attempts


def _sent(team: Sequence[Order]) -> str:
    names = ", ".join(order.node for order in team)
    return f"Sent to node{'s' if len(team) > 1 else ''} {names}."


def _check_room(claimed: Sequence[Placement]) -> None:
    """Lock the devices until the commit, and count what is held of them and asked for. Raises Taken."""
    wanted = {device for placement in claimed for device in placement.all_devices}
    locked = Accelerator.objects.filter(pk__in=wanted).select_for_update(no_key=True).order_by("pk")
    memory = dict(locked.values_list("pk", "memory_bytes"))
    live = Allocation.objects.filter(accelerator__in=wanted, released_at=None)
    held: dict[int, list[int | None]] = defaultdict(list)
    for device, reserved in live.values_list("accelerator_id", "reserved_bytes"):
        held[device].append(reserved)
    for placement in claimed:
        for device in placement.all_devices:
            held[device].append(placement.reserved_bytes)
    for device, parts in held.items():
        shared = sum(part or 0 for part in parts)
        if shared > memory[device] or (None in parts and len(parts) > 1):
            raise Taken
