"""Devices kept for a waiting job, and the time it starts at the latest if everybody ends when expected.

EASY backfill (Lifka, JSSPP 1995; Mu'alem and Feitelson, IEEE TPDS 12(6), 2001): the first waiting job gets the earliest
start that those who run allow; a later one may start now only on other devices, or if it is over by then. Here the
devices are named, so that other nodes stay open to jobs of unknown duration. Knows nothing of the order of the queue.
"""

from dataclasses import dataclass

from portal.jobs.scheduler.devices import NEVER, UNKNOWN, DeviceState, NodeState, ends_in_s, packable
from portal.jobs.scheduler.pools import Pool, Pools
from portal.jobs.scheduler.queue import Waiting

Parts = list[tuple[NodeState, list[DeviceState]]]


@dataclass(frozen=True)
class Reservation:
    """Devices kept for a job. `start_s`: seconds until all of them are free, UNKNOWN when nobody knows."""

    job: int
    start_s: float
    parts: Parts


def earliest(job: Waiting, pool: Pool, pools: Pools) -> Reservation | None:
    """The nodes on which the job can start first. None while launches that nobody stops hold too many devices."""
    wanted = job.resources.devices
    planned = job.planned_bytes if packable(job, pools.policy) else None
    choices = []
    for node in pool.nodes:
        here = pool.devices[node.order]
        if len(here) < wanted:
            continue
        times = sorted((_opens_s(device, planned, pools), at) for at, device in enumerate(here))[:wanted]
        if times[-1][0] != NEVER:
            busy = sum(seconds > 0 for seconds, _ in times)
            choices.append((times[-1][0], busy, node.order, node, [here[at] for _, at in times]))
    if len(choices) < job.nodes:
        return None
    choices.sort(key=lambda choice: choice[:3])
    chosen = choices[: job.nodes]
    return Reservation(job.job, chosen[-1][0], [(node, devices) for *_, node, devices in chosen])


def keep(job: Waiting, reservation: Reservation, pools: Pools) -> None:
    """Keep the devices for the job; another one may have them until it starts."""
    until = reservation.start_s if reservation.start_s < UNKNOWN else -1.0  # nobody is over by then
    over = then(reservation.start_s, job)
    for node, devices in reservation.parts:
        for device in devices:
            if device.kept_for is None:
                device.kept_for = job.job
            device.kept_until = min(device.kept_until, until)
            device.kept_then = max(device.kept_then, over)
        pools.kept[node.order] = node
        pools.changed(node)


def then(start_s: float, job: Waiting) -> float:
    """When a job that starts in `start_s` is over."""
    if job.until_stopped:
        return NEVER
    return UNKNOWN if job.known_s is None else min(start_s + job.known_s, UNKNOWN)


def _opens_s(device: DeviceState, planned: int | None, pools: Pools) -> float:
    """Seconds until the device can take the job: alone, or beside others once they leave `planned` bytes."""
    opens = device.until
    if planned is not None and device.room >= 0:
        left = device.room
        leaving = sorted((ends_in_s(held, pools.policy), held.planned_bytes or 0) for held in device.holds)
        opens = 0.0
        for seconds, size in leaving:
            if left >= planned:
                break
            left += size
            opens = seconds
    return max(opens, device.kept_then)
