"""Who goes before whom: a job's effective priority. Pure; knows nothing of devices.

effective priority = priority + points_per_hour · hours waited − fair-share penalty · max(1 − waited / old_s, 0)

The factors are Slurm's (https://slurm.schedmd.com/priority_multifactor.html), but the age has no ceiling, where Slurm's
ends at PriorityMaxAge. So no job starves: two waiting jobs age alike and all else is bounded, so that one which is
queued `overtaking_s` after another never goes before it. From old_s on nothing is taken away any more: an old job's
effective priority only rises.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator

from portal.jobs.scheduler.policy import HOUR, Policy
from portal.jobs.scheduler.queue import Waiting
from portal.jobs.scheduler.share import Ledger


def waited_s(job: Waiting, now: float) -> float:
    """Seconds it has waited."""
    return 0.0 if job.queued_at is None else max(now - job.queued_at, 0.0)


def standing(job: Waiting, policy: Policy, now: float) -> tuple[float, float]:
    """Its points without fair share, and how much of its team's penalty counts: from 1 when new to 0 when old."""
    waited = waited_s(job, now)
    return job.priority + policy.points_per_hour * waited / HOUR, max(1 - waited / policy.old_s, 0.0)


def effective_priority(job: Waiting, policy: Policy, now: float, penalty: float) -> float:
    """Points, by the formula above. `penalty`: what its team's usage costs, 0 to fair_share_points."""
    points, counts = standing(job, policy, now)
    return points - penalty * counts


def overtaking_s(policy: Policy, points: float) -> float:
    """Seconds after which one that is queued later no longer goes before a job, if its priority is `points` higher."""
    return (max(points, 0.0) + policy.fair_share_points) / policy.points_per_hour * HOUR


def in_order(queue: Iterable[Waiting], policy: Policy, now: float, ledger: Ledger) -> Iterator[Waiting]:
    """The queue, highest effective priority first; among equals the one queued first, then the lower number.

    Of one team and priority the one queued first is always before the others, whatever the penalty: they stand in a
    line, and only its first one is weighed. What the ledger is given between two jobs counts for those that follow:
    penalties only rise, so a line whose turn comes is weighed again and put back if another one is now before it.
    """
    lines: dict[tuple[str, int], list[Waiting]] = defaultdict(list)
    for job in sorted(queue, key=lambda job: _place_in_line(job, now), reverse=True):
        lines[job.team, job.priority].append(job)

    def turn(line: list[Waiting]) -> _Turn:
        points, counts = standing(line[-1], policy, now)
        minus = ledger.penalty(line[-1].team) * counts - points
        return minus, *_place_in_line(line[-1], now), line

    heap = [turn(line) for line in lines.values()]
    heapq.heapify(heap)
    while heap:
        line = heap[0][-1]
        again = turn(line)
        if again[0] > heap[0][0]:
            heapq.heapreplace(heap, again)
            continue
        heapq.heappop(heap)
        yield line.pop()
        if line:
            heapq.heappush(heap, turn(line))


_Turn = tuple[float, float, int, list[Waiting]]
"""Minus the effective priority and the place in line of the first of a line, and the line, its first at the end."""


def _place_in_line(job: Waiting, now: float) -> tuple[float, int]:
    return now if job.queued_at is None else job.queued_at, job.job
