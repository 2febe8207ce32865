"""`make bench SECTION=scheduler`: 10,000 queued jobs on 1,000 nodes of 8 devices, and a week of arrivals after them.

Goal: a decision under a second at the 99th percentile. Beside it, from the same jobs in the same simulator: the
utilisation, waits and fairness over teams of FIFO and plain EASY backfill. `--quick` is a smoke run on a tenth of it.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from portal.jobs.scheduler import Policy
from tests.bench.machine import describe, percentile
from tests.bench.scheduler.figures import figures
from tests.bench.scheduler.mix import DAY, draw
from tests.bench.scheduler.ours import Ours
from tests.bench.scheduler.peers import easy, fifo
from tests.bench.scheduler.simulator import simulate

GOAL_S = 1.0
PEERS = {"fifo": fifo, "easy": easy}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scheduler", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--devices", type=int, default=8, help="of a node")
    parser.add_argument("--queued", type=int, default=10_000, help="at the start")
    parser.add_argument("--days", type=float, default=7)
    parser.add_argument("--load", type=float, default=0.9, help="work that arrives over what the fleet can do")
    parser.add_argument("--tick", type=float, default=1800, help="seconds between decisions")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", type=Path, default=Path("var/bench/scheduler.json"))
    given = parser.parse_args(arguments)
    if given.quick:
        given.nodes, given.queued, given.days = given.nodes // 10, given.queued // 10, 2
    began = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as beside:
        waiting = {name: beside.submit(_peer, name, given) for name in PEERS}
        ours, times = _ours(given)
        runs = {"liftoff": ours, **{name: future.result() for name, future in waiting.items()}}
    report = {
        "section": "scheduler",
        "goal_s": GOAL_S,
        "fleet": {"nodes": given.nodes, "devices": given.nodes * given.devices},
        "jobs": {"queued": given.queued, "all": len(_jobs(given)), "days": given.days, "load": given.load},
        "tick_s": given.tick,
        "runs": runs,
        "over_fifo": _over(ours, runs["fifo"]),
        "over_easy": _over(ours, runs["easy"]),
        "decision_s": _times(times),
        "took_s": round(time.monotonic() - began),
        "machine": describe(),
    }
    report["met"] = report["decision_s"]["p99"] < GOAL_S
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(report, indent=1))
    print(json.dumps(report))
    return 0


def _jobs(given: argparse.Namespace) -> list[Any]:
    return draw(given.queued, given.days, given.load, given.nodes * given.devices, given.seed)


def _ours(given: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[float, float, int]]]:
    ours = Ours(Policy())
    return figures(simulate(_jobs(given), given.nodes, given.devices, given.days * DAY, given.tick, ours)), ours.times


def _peer(name: str, given: argparse.Namespace) -> dict[str, Any]:
    outcome = simulate(_jobs(given), given.nodes, given.devices, given.days * DAY, given.tick, PEERS[name])
    return figures(outcome)


def _times(times: list[tuple[float, float, int]]) -> dict[str, Any]:
    """Seconds of a decision: by the clock, and of processor time, which a busy machine doesn't stretch as much."""
    clock, cpu = [took for took, _, _ in times], [took for _, took, _ in times]
    longest = max(times)
    return {
        "decisions": len(times),
        "p50": round(percentile(clock, 0.5), 3),
        "p99": round(percentile(clock, 0.99), 3),
        "max": round(longest[0], 3),
        "queued_at_max": longest[2],
        "cpu_p50": round(percentile(cpu, 0.5), 3),
        "cpu_p99": round(percentile(cpu, 0.99), 3),
    }


def _over(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Our figure over theirs."""
    return {name: round(ours[name] / theirs[name], 3) for name in ("utilisation", "mean_wait_h", "p99_wait_h", "jain")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
