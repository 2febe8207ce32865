"""The faults of a round, drawn from a seed before it begins: the same seed draws the same. Pure."""

import random
from dataclasses import dataclass
from enum import StrEnum

LEASE_S = 6.0
"""Seconds of a lease in a round."""

GAP_S = 1.5
"""Seconds between two faults, on average."""

_SHORT_S = 18.0
"""A round whose faults are over within this has the jobs as they are; the jobs of a longer one last as long as it."""


class Kind(StrEnum):
    """What can go wrong."""

    KILL_CHILD = "kill_child"
    KILL_WORKER = "kill_worker"
    STOP_WORKER = "stop_worker"
    PAUSE_WORKER = "pause_worker"
    KILL_CONTROLLER = "kill_controller"
    PAUSE_CONTROLLER = "pause_controller"
    KILL_WEB = "kill_web"
    RESTART_REDIS = "restart_redis"
    EMPTY_REDIS = "empty_redis"
    FLUSH_REDIS = "flush_redis"
    RESTART_POSTGRES = "restart_postgres"
    CRASH_POSTGRES = "crash_postgres"
    FILL_DISK = "fill_disk"
    REPEAT_ORDERS = "repeat_orders"
    REPEAT_EVENTS = "repeat_events"


_WEIGHTS = {
    Kind.KILL_CHILD: 4,
    Kind.KILL_WORKER: 3,
    Kind.STOP_WORKER: 1,
    Kind.PAUSE_WORKER: 2,
    Kind.KILL_CONTROLLER: 2,
    Kind.PAUSE_CONTROLLER: 1,
    Kind.KILL_WEB: 1,
    Kind.RESTART_REDIS: 1,
    Kind.EMPTY_REDIS: 1,
    Kind.FLUSH_REDIS: 1,
    Kind.RESTART_POSTGRES: 1,
    Kind.CRASH_POSTGRES: 1,
    Kind.FILL_DISK: 1,
    Kind.REPEAT_ORDERS: 1,
    Kind.REPEAT_EVENTS: 2,
}

_HOLD_S = {
    Kind.PAUSE_WORKER: (LEASE_S * 1.5, LEASE_S * 2),
    Kind.PAUSE_CONTROLLER: (7.0, 10.0),
    Kind.FILL_DISK: (1.0, 3.0),
}
"""How long a fault lasts; the others are over within two seconds."""


@dataclass(frozen=True)
class Planned:
    """A fault at `at_s` seconds into the round, for `hold_s`. `pick` in [0, 1) chooses among what is there then."""

    at_s: float
    kind: Kind
    hold_s: float
    pick: float


def stretch(faults: int, gap_s: float = GAP_S) -> float:
    """How much longer the jobs of a round with so many faults take than those of a short one."""
    return max(faults * gap_s / _SHORT_S, 1.0)


def plan(seed: int, faults: int, gap_s: float = GAP_S) -> list[Planned]:
    """`faults` of them, on average `gap_s` seconds apart (exponential, so that some come together)."""
    draw = random.Random(seed)
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    planned, at_s = [], 1.0
    for kind in draw.choices(kinds, weights, k=faults):
        at_s += draw.expovariate(1 / gap_s)
        low, high = _HOLD_S.get(kind, (0.2, 2.0))
        planned.append(Planned(round(at_s, 2), kind, round(draw.uniform(low, high), 2), draw.random()))
    return planned
