"""What a run of the simulator comes to."""

from collections.abc import Mapping
from typing import Any

from tests.bench.machine import percentile
from tests.bench.scheduler.mix import HOUR
from tests.bench.scheduler.simulator import Outcome


def figures(outcome: Outcome) -> dict[str, Any]:
    """Waits in hours over all jobs, those still waiting at the end with what they have waited; fairness over teams.

    Fairness: each team's device-seconds over those it is entitled to, which is what was given out in all, divided
    max-min fairly among equal teams none of which gets more than it asked for. Jain's index of these ratios (Jain, Chiu
    and Hawe 1984; 1 is fair) and the ratio of the team that is worst off.
    """
    waits = [outcome.started.get(job.number, outcome.seconds) - job.queued_at for job in outcome.jobs]
    asked: dict[str, float] = {}
    by_team: dict[str, list[float]] = {}
    for job, wait in zip(outcome.jobs, waits, strict=True):
        asked[job.team] = asked.get(job.team, 0.0) + job.device_seconds
        by_team.setdefault(job.team, []).append(wait)
    given = sum(outcome.busy.values())
    entitled = max_min(asked, given)
    ratios = [outcome.busy.get(team, 0.0) / entitled[team] for team in sorted(asked)]
    means = sorted(sum(each) / len(each) / HOUR for each in by_team.values())
    return {
        "utilisation": round(given / outcome.devices / outcome.seconds, 4),
        "started": len(outcome.started),
        "mean_wait_h": round(sum(waits) / len(waits) / HOUR, 2),
        "p50_wait_h": round(percentile(waits, 0.5) / HOUR, 2),
        "p99_wait_h": round(percentile(waits, 0.99) / HOUR, 2),
        "max_wait_h": round(max(waits) / HOUR, 2),
        "jain": round(sum(ratios) ** 2 / len(ratios) / sum(ratio**2 for ratio in ratios), 4),
        "worst_team": round(min(ratios), 3),
        "mean_wait_h_of_teams": {"best": round(means[0], 2), "worst": round(means[-1], 2)},
        "longest_queue": outcome.longest_queue,
    }


def max_min(asked: Mapping[str, float], total: float) -> dict[str, float]:
    """`total` divided max-min fairly: nobody more than asked, the rest in equal parts among the others."""
    got: dict[str, float] = {}
    left = total
    for at, (team, wish) in enumerate(sorted(asked.items(), key=lambda item: item[1])):
        got[team] = min(wish, left / (len(asked) - at))
        left -= got[team]
    return got
