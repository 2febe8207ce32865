"""How much each team has used lately, and what that costs its waiting jobs. Pure; reads no records.

Usage is counted in device-seconds that decay with a half-life: a run of `devices` from `start` to `end` counts, at the
moment `now`, as the integral of devices · 2^(−(now − t) / half_life) over t. Source: Slurm's multifactor priority
(https://slurm.schedmd.com/priority_multifactor.html, PriorityDecayHalfLife; fair-share factor 2^(−usage / share) of
https://slurm.schedmd.com/classic_fair_share.html).
"""

import math
from collections.abc import Iterable, Mapping

from portal.jobs.scheduler.policy import Policy


def used(devices: float, start_s: float, end_s: float, now: float, half_life_s: float) -> float:
    """Decayed device-seconds, at `now`, of a run from `start_s` to `end_s`; for one that goes on, `end_s` is `now`."""
    rate = math.log(2) / half_life_s
    return devices / rate * (math.exp(-rate * (now - end_s)) - math.exp(-rate * (now - start_s)))


def accrue(
    usage: Mapping[str, float], holding: Mapping[str, float], seconds: float, half_life_s: float
) -> dict[str, float]:
    """`usage` after `seconds` in which each team held `holding` devices: the same integral, step by step."""
    kept = 2.0 ** (-seconds / half_life_s)
    added = half_life_s / math.log(2) * (1 - kept)
    teams = sorted(usage.keys() | holding.keys())
    return {team: usage.get(team, 0.0) * kept + holding.get(team, 0.0) * added for team in teams}


class Ledger:
    """What each team has used when a decision begins, and what it is given while the decision goes on."""

    def __init__(self, usage: Mapping[str, float], waiting: Iterable[str], devices: int, policy: Policy) -> None:
        teams = sorted({team for team, seconds in usage.items() if seconds > 0} | set(waiting))
        weights = {team: policy.shares.get(team, 1.0) for team in teams}
        everything = sum(weights.values())
        self._shares = {team: weight / everything for team, weight in weights.items()}
        self._usage = {team: max(usage.get(team, 0.0), 0.0) for team in teams}
        # A constant, all that was used and all that could be given: so a penalty only rises while a decision goes on.
        self._total = sum(self._usage.values()) + devices * policy.claim_s
        self._policy = policy
        self._penalties: dict[str, float] = {}

    def over(self, team: str) -> float:
        """The team's part of all usage over its share: 1 when it used just its share."""
        if len(self._shares) < 2 or team not in self._shares or not self._total:
            return 0.0
        return self._usage[team] / self._total / self._shares[team]

    def penalty(self, team: str) -> float:
        """Points its waiting jobs lose, from 0 to the policy's fair_share_points; half of them at just its share."""
        known = self._penalties.get(team)
        if known is None:
            known = self._penalties[team] = self._policy.fair_share_points * (1 - 2.0 ** -self.over(team))
        return known

    def give(self, team: str, devices: int, duration_s: float | None) -> None:
        """The team is given devices in this decision."""
        claim = self._policy.claim_s
        self._usage[team] += devices * (claim if duration_s is None else min(claim, duration_s))
        self._penalties.pop(team, None)
