"""What an administrator can set about the order of the queue. Plain data; reads no settings itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.contract.order import MOST_SHARING

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass(frozen=True)
class Policy:
    """How the scheduler weighs one job against another. Points are those of a job's priority.

    `points_per_hour`: what waiting an hour is worth; without end, so that no job starves.
    `fair_share_points`: the most a job loses because its team used more than its share.
    `shares`: team → weight; a team that isn't named weighs 1. Jobs without a team ("") count as one team.
    `half_life_s`: what a team used so long ago counts half (Slurm's PriorityDecayHalfLife, 7 days by default). Read by
    whoever counts usage with portal.jobs.scheduler.share, not by the decision.
    `old_s`: from this much waiting on, fair share no longer counts against a job: its priority only rises.
    `claim_s`: what each device given out in a decision counts as used at once, so that one decision doesn't give a
    team everything.
    `backfill`: a later job may start before an earlier one that waits, if it doesn't delay it.
    `reservations`: how many waiting jobs in order have devices kept for them, among those that want like devices.
    `packs`: kinds of jobs that may share one device by planned bytes; the others get theirs alone.
    `pack_share`: the share of a device's memory that jobs on it may plan for together; `pack_jobs`: how many they are
    at most.
    `preempts`: a job may have preemptible jobs of lower priority stopped. `preempt_points`: by how many points it must
    stand above them. `patience_s`: not if it is expected to start within this time anyway. `stop_s`: how long a job
    that is told to stop is expected to take.

    Raises ValueError for a value with which a job could wait for ever or nothing could be decided.
    """

    points_per_hour: float = 1.0
    fair_share_points: float = 24.0
    shares: Mapping[str, float] = field(default_factory=dict)
    half_life_s: float = 7 * DAY
    old_s: float = 3 * DAY
    claim_s: float = HOUR
    backfill: bool = True
    reservations: int = 1
    packs: frozenset[str] = frozenset()
    pack_share: float = 0.9
    pack_jobs: int = 4
    preempts: bool = False
    preempt_points: float = 1.0
    patience_s: float = 120.0
    stop_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("points_per_hour", "half_life_s", "old_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not above 0.")
        for name in ("fair_share_points", "claim_s", "preempt_points", "patience_s", "stop_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: {getattr(self, name)!r} is below 0.")
        if self.reservations < 1:
            raise ValueError(f"reservations: {self.reservations} keeps nothing for the next job; use 1 or more.")
        if unknown := self.packs - {"finetune", "launch"}:
            raise ValueError(f"packs: {', '.join(sorted(unknown))} can't share a device; use finetune or launch.")
        if not 2 <= self.pack_jobs <= MOST_SHARING:
            raise ValueError(f"pack_jobs: {self.pack_jobs} can't share a device; use 2 to {MOST_SHARING}.")
        if not 0 < self.pack_share <= 1:
            raise ValueError(f"pack_share: {self.pack_share!r} is not a share; use more than 0 and at most 1.")
        for team, weight in self.shares.items():
            if not weight > 0:
                raise ValueError(f"shares: the weight of team {team}, {weight!r}, is not above 0.")
