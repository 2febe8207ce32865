"""What each team has used of the fleet lately: device-seconds that decay, counted on from what runs.

Reads the records once and then adds what is held from round to round. Decides nothing (scheduler.share).
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from portal.accounts.selectors import teams
from portal.jobs.holdings import Holding, part_of
from portal.jobs.models import Allocation
from portal.jobs.scheduler.share import accrue, used

HALF_LIVES = 5
"""What was used longer ago counts less than a thirtieth and is left out."""


class Usage:
    """By owner, since teams change. One a leading controller."""

    def __init__(self) -> None:
        self._by_owner: dict[int, float] | None = None
        self._at = 0.0

    def step(self, held: Iterable[Holding], now: datetime, half_life_s: float) -> dict[str, float]:
        """Team → decayed device-seconds up to `now`, those of what runs included. `held`: what is held now."""
        at = now.timestamp()
        if self._by_owner is None or at < self._at:
            self._by_owner = _recorded(now, half_life_s)
        else:
            holding: dict[str, float] = defaultdict(float)
            for one in held:
                holding[str(one.owner)] += one.part
            by_name = accrue(
                {str(owner): seconds for owner, seconds in self._by_owner.items()},
                holding,
                at - self._at,
                half_life_s,
            )
            self._by_owner = {int(owner): seconds for owner, seconds in by_name.items()}
        self._at = at
        return _by_team(self._by_owner)


def _recorded(now: datetime, half_life_s: float) -> dict[int, float]:
    """Owner → decayed device-seconds of every device, or part of one, held since HALF_LIVES ago."""
    since = now - timedelta(seconds=HALF_LIVES * half_life_s)
    found: dict[int, float] = defaultdict(float)
    columns = (
        "attempt__job__owner_id", "attempt__dispatched_at", "released_at", "reserved_bytes",
        "accelerator__memory_bytes",
    )  # fmt: skip
    for rows in (Allocation.objects.filter(released_at=None), Allocation.objects.filter(released_at__gte=since)):
        for owner, start, end, reserved, size in rows.order_by().values_list(*columns).iterator(5000):
            until = min(end, now) if end else now
            if start < until:
                part, span = part_of(reserved, size), (start.timestamp(), until.timestamp())
                found[owner] += used(part, *span, now.timestamp(), half_life_s)
    return dict(found)


def _by_team(by_owner: dict[int, float]) -> dict[str, float]:
    team = teams(by_owner)
    found: dict[str, float] = defaultdict(float)
    for owner, seconds in by_owner.items():
        if owner in team:
            found[team[owner]] += seconds
    return dict(found)
