"""The jobs of a week: a backlog and arrivals with the sizes and run times that were published of Philly.

Jeon et al., Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training Workloads (USENIX ATC 2019), describe
the trace; sizes and run times are drawn as Narayanan et al. draw them after it for Gavel (OSDI 2020; the generator of
its simulator):
  devices: 70% ask for 1, 10% for 2, 15% for 4, 5% for 8;
  minutes: 10^u, u uniform in [1.5, 3] for 80% of the jobs and in [3, 4] for the others.

Assumed here, without a published figure: 14 teams, of which the n-th submits 1/n as much as the first; one in five of
the 8-device jobs asks for two whole nodes; one job in ten needs the rarer kind of node, a fifth of the fleet; arrivals
are Poisson, half as many at night as by day and at the weekend as in the week; four jobs in five say how long they run,
wrongly by a log-normal factor (sigma 0.3), the others don't say.
"""

import math
import random
from dataclasses import dataclass

HOUR = 3600.0
DAY = 24 * HOUR
TEAMS = 14
RARE = 5
"""Every so manieth node is of the rarer kind."""


@dataclass(frozen=True)
class Job:
    """One job. `seconds` is what it really runs, `said` what it says, None when it doesn't. `rare`: only there."""

    number: int
    team: str
    devices: int
    nodes: int
    seconds: float
    said: float | None
    rare: bool
    queued_at: float

    @property
    def device_seconds(self) -> float:
        """The work it is."""
        return self.devices * self.nodes * self.seconds


def draw(backlog: int, days: float, load: float, capacity: int, seed: int) -> list[Job]:
    """`backlog` jobs at 0, then arrivals that are `load` times what `capacity` devices can do, in order of arrival."""
    rng = random.Random(seed)
    jobs = [_job(rng, number, 0.0) for number in range(1, backlog + 1)]
    sample = random.Random(seed + 1)
    mean = sum(_job(sample, 0, 0.0).device_seconds for _ in range(20_000)) / 20_000
    rate = load * capacity / mean
    shape = [_busy(hour * HOUR) for hour in range(168)]
    scale = rate / (sum(shape) / len(shape))
    peak = scale * max(shape)
    at = 0.0
    while (at := at + rng.expovariate(peak)) < days * DAY:
        if rng.random() < scale * _busy(at) / peak:  # thinning of a Poisson process (Lewis and Shedler 1979)
            jobs.append(_job(rng, len(jobs) + 1, at))
    return jobs


def _busy(at: float) -> float:
    weekend = int(at // DAY) % 7 >= 5
    day = 0.75 - 0.25 * math.cos(2 * math.pi * (at % DAY) / DAY)
    return day * (0.5 if weekend else 1.0)


def _job(rng: random.Random, number: int, at: float) -> Job:
    size = rng.choices((1, 2, 4, 8), (70, 10, 15, 5))[0]
    nodes = 2 if size == 8 and rng.random() < 0.2 else 1
    minutes = 10 ** (rng.uniform(1.5, 3) if rng.random() < 0.8 else rng.uniform(3, 4))
    team = rng.choices(range(TEAMS), [1 / n for n in range(1, TEAMS + 1)])[0]
    said = 60 * minutes * rng.lognormvariate(0, 0.3) if rng.random() < 0.8 else None
    return Job(number, f"team-{team + 1}", size, nodes, 60 * minutes, said, rng.random() < 0.1, at)
