"""`python -m tests.chaos --rounds 3 --seed 1`: rounds of faults on a real stack; exit status 1 when an invariant broke.

Round n has the seed SEED + n. A failing round's seed replays its schedule: `make chaos ROUNDS=1 SEED=<seed>`.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.chaos import schedule
from tests.chaos.stack import Stack


def main(arguments: list[str]) -> int:
    given = _parsed(arguments)
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    stack = Stack()
    failed = True
    try:
        stack.prepare_disks()
        stack.prepare_database()
        stack.start()
        report = _rounds(stack, given)
        failed = bool(report["broken"])
    finally:
        if failed:
            print(stack.log_tails(), file=sys.stderr)
            print(f"The folder {stack.home} is kept.", file=sys.stderr)
        stack.stop(keep=failed)
    if given.plain_celery and not failed:
        from tests.chaos import plain_celery

        report["plain_celery"] = plain_celery.compare(given.seed, given.rounds, given.faults, given.gap)
    given.report.write_text(json.dumps(report, indent=1))
    print(json.dumps(report))
    return int(failed)


def _rounds(stack: Stack, given: argparse.Namespace) -> dict[str, Any]:
    from tests.chaos import invariants, measures, rounds

    for what, why in stack.why_not.items():
        print(f"Without faults of {what}: {why}.", flush=True)
    real = find_spec("torch") is not None and not given.no_real
    undisturbed = _undisturbed_losses(stack) if real else None
    recoveries: list[measures.Recovery] = []
    faults: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    broken: dict[int, dict[str, list[str]]] = {}
    attempts = 0
    report: dict[str, Any] = {}
    given.report.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seed, given.seed + given.rounds):
        began = time.monotonic()
        with_real = real and seed == given.seed
        played = rounds.play(stack, seed, given.faults, with_real, given.gap)
        found = invariants.violations(stack, played)
        if with_real and undisturbed != (losses := _losses(played.ids["real"])):
            found["a real fine-tune's losses"] = [f"{losses} instead of {undisturbed}"]
        recoveries += measures.recoveries(stack, played)
        attempts += len(invariants.attempts_of(played))
        for fault in played.injected:
            (skipped if fault.skipped else faults)[fault.kind.value] += 1
        done = f"round of seed {seed}: {len(played.injected)} faults, {time.monotonic() - began:.0f} s"
        print(f"{done}, {'BROKEN' if found else 'all holds'}", flush=True)
        if found:
            broken[seed] = found
            _tell(seed, found, played)
        report = _report(stack, given, faults, skipped, broken, seed - given.seed + 1, attempts, recoveries)
        given.report.write_text(json.dumps(report, indent=1))
        if found and not given.keep_going:
            break
    return report


def _report(
    stack: Stack,
    given: argparse.Namespace,
    faults: Counter[str],
    skipped: Counter[str],
    broken: dict[int, dict[str, list[str]]],
    rounds: int,
    attempts: int,
    recoveries: "list[Any]",
) -> dict[str, Any]:
    """What came of the rounds so far."""
    return {
        "section": "chaos",
        "database": "postgresql" if stack.postgres else stack.environment["DATABASE_URL"].split(":")[0],
        "cores": os.cpu_count(),
        "seed": given.seed,
        "gap_s": given.gap,
        "rounds": rounds,
        "jobs": 12 * rounds,
        "attempts": attempts,
        "faults": sum(faults.values()),
        "faults_by_kind": dict(sorted(faults.items())),
        "skipped": dict(sorted(skipped.items())),
        "not_possible_here": stack.why_not,
        "broken": {str(seed): found for seed, found in broken.items()},
        **_figures(recoveries),
    }


def _figures(recoveries: "list[Any]") -> dict[str, Any]:
    from tests.chaos.measures import percentile

    def spread(values: list[float]) -> dict[str, Any]:
        return {
            "n": len(values),
            "p50": percentile(values, 0.5),
            "p99": percentile(values, 0.99),
            "most": percentile(values, 1),
        }

    checkpointed = [recovery for recovery in recoveries if recovery.every]
    by_fault = {kind: [one for one in recoveries if one.fault == kind] for kind in {one.fault for one in recoveries}}
    return {
        "recovery_s": spread([recovery.recovery_s for recovery in recoveries]),
        "recovery_less_waits_s": spread([recovery.own_s for recovery in recoveries]),
        "recovery_alone_s": spread([recovery.recovery_s for recovery in recoveries if recovery.alone]),
        "recovery_alone_less_waits_s": spread([recovery.own_s for recovery in recoveries if recovery.alone]),
        "noticed_s": spread([recovery.noticed_s for recovery in recoveries]),
        "backoff_s": spread([recovery.backoff_s for recovery in recoveries]),
        "devices_busy_s": spread([recovery.busy_s for recovery in recoveries]),
        "services_away_s": spread([recovery.away_s for recovery in recoveries]),
        "by_fault": {
            kind.value: {
                "recovery_s": spread([recovery.recovery_s for recovery in by_fault[kind]]),
                "recovery_less_waits_s": spread([recovery.own_s for recovery in by_fault[kind]]),
                "noticed_s": spread([recovery.noticed_s for recovery in by_fault[kind]]),
            }
            for kind in sorted(by_fault)
        },
        "lost_intervals": spread([recovery.lost_steps / recovery.every for recovery in checkpointed]),
        "lost_more_than_one_interval": [
            asdict(recovery) for recovery in checkpointed if recovery.lost_steps > recovery.every
        ],
        "slowest": [asdict(one) for one in sorted(recoveries, key=lambda one: one.own_s)[:-6:-1]],
    }


def _undisturbed_losses(stack: Stack) -> list[tuple[int, float]]:
    """The losses of the real fine-tune with nothing in its way."""
    from tests import tiny_model
    from tests.chaos import rounds
    from tests.chaos.work import jobs

    tiny_model.build(stack.home / "store/models/real")
    work = next(work for work in jobs(0, real=True) if work.key == "real")
    answer = stack.client.post("/api/v1/jobs", json={**work.spec, "adapter": "adapter-undisturbed"})
    assert answer.status_code == 201, answer.text
    played = rounds.Round(0, time.time(), [work], {"real": int(answer.json()["id"])})
    rounds.settle(played)
    assert not played.stuck, played.stuck
    return _losses(played.ids["real"])


def _losses(job: int) -> list[tuple[int, float]]:
    """(step, loss) by step, once for each value it had."""
    from portal.telemetry.models import MetricPoint

    points = MetricPoint.objects.filter(attempt__job_id=job, name="loss")
    return sorted(set(points.values_list("step", "value")))


def _tell(seed: int, found: dict[str, list[str]], played: Any) -> None:
    for invariant, sentences in found.items():
        print(f"  broken: {invariant}")
        for sentence in sentences[:20]:
            print(f"    {sentence}")
    for fault in played.injected:
        span = f"{fault.at - played.began:6.2f} – {fault.until - played.began:6.2f} s"
        struck = f", struck {', '.join(sorted(fault.struck))}" if fault.struck else ""
        print(f"  {span} {fault.kind} {fault.target}{struck}{f' (not done: {fault.skipped})' if fault.skipped else ''}")
    print(f"  replay: make chaos ROUNDS=1 SEED={seed} FAULTS={len(played.injected)}", flush=True)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=8, help="of each round")
    parser.add_argument("--gap", type=float, default=schedule.GAP_S, help="seconds between two faults, on average")
    parser.add_argument("--no-real", action="store_true", help="without the fine-tune of a tiny model")
    parser.add_argument("--keep-going", action="store_true", help="go on after a round that broke an invariant")
    parser.add_argument("--plain-celery", action="store_true", help="beside it, plain Celery under the same seeds")
    parser.add_argument("--report", type=Path, default=Path("var/bench/chaos.json"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
