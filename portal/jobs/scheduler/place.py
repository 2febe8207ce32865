"""Where a job may start now: alone on free devices, all its nodes at once, in a gap, or beside others on one device.

Knows nothing of the order of the queue.
"""

from portal.jobs.scheduler.decisions import Placement
from portal.jobs.scheduler.devices import DeviceState, NodeState, hold_of, packable
from portal.jobs.scheduler.pools import Pool, Pools
from portal.jobs.scheduler.queue import Waiting


def place(job: Waiting, pool: Pool, pools: Pools) -> Placement | None:
    """Start it, if it may: then its devices are taken in `pools`. All of its nodes or nothing."""
    if packable(job, pools.policy) and (room := pool.room(job.planned_bytes or 0, job.known_s)):
        node, device = room
        return _take(job, pools, [(node, [device])])
    wanted = job.resources.devices
    chosen: list[NodeState] | None = None
    if pool.ready(wanted) >= job.nodes:
        if job.nodes == 1:
            node_or_none = pool.best(job)
            chosen = [node_or_none] if node_or_none else None
        else:
            chosen = pool.several(job)
    if chosen is None:
        chosen = _in_a_gap(job, pool, pools)
    if chosen is None:
        return None
    return _take(job, pools, [(node, _devices(job, pool, node)) for node in chosen])


def _in_a_gap(job: Waiting, pool: Pool, pools: Pools) -> list[NodeState] | None:
    """Nodes with devices that are free and kept for an earlier job that can't start before this one is over.

    This is what makes it backfill (EASY: Lifka, The ANL/IBM SP scheduling system, JSSPP 1995).
    """
    duration_s = job.known_s
    shape = (job.resources.devices, job.nodes)
    if not pools.policy.backfill or duration_s is None or not pools.kept:
        return None
    if duration_s >= pool.refused.get(shape, float("inf")):
        return None
    usable = {
        order: sum(device.free and device.usable_s() >= duration_s for device in pool.devices[order])
        for order in pools.kept
        if order in pool.devices
    }
    chosen = pool.several(job, usable)
    if chosen is None:
        pool.refused[shape] = duration_s
    return chosen


def _devices(job: Waiting, pool: Pool, node: NodeState) -> list[DeviceState]:
    """The first free devices of the node by index, those that are kept for nobody first."""
    duration_s = job.known_s or 0.0
    free = [device for device in pool.devices[node.order] if device.free and device.usable_s() >= duration_s]
    free.sort(key=lambda device: device.kept_for is not None)
    return free[: job.resources.devices]


def _take(job: Waiting, pools: Pools, parts: list[tuple[NodeState, list[DeviceState]]]) -> Placement:
    reserved = job.planned_bytes if packable(job, pools.policy) else None
    if reserved is not None and reserved > parts[0][1][0].limit(pools.policy):
        reserved = None  # it leaves nobody room
    hold = (hold_of(job, reserved),)
    for node, devices in parts:
        for device in devices:
            device.hold(hold, pools.policy)
        pools.changed(node)
    named = tuple((node.node.id, tuple(device.id for device in devices)) for node, devices in parts)
    return Placement(job.job, named[0][0], named[0][1], named, reserved)
