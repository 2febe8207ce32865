"""`make bench SECTION=queue`: what a job waits for beside its own work, on a real PostgreSQL, Redis, web and worker.

Goals: from submit to the child's first word at most 300 ms (median) and 1 s (99th percentile) more than the bare
command takes; claims a second at least half of what raw Celery carries of tasks that do nothing; an order behind a
queue of 10,000 sent in at most 1.5 times what it takes behind 100. Each figure and what it is compared with are
measured in turn, in this one run. `--quick` is a smoke run on a tenth of it.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.machine import describe
from tests.bench.queue import claims, latency, start
from tests.bench.services import own_services

PARTS = {"start": start.measure, "claims": claims.measure, "latency": latency.measure}
PAIRS = {"start": 100, "claims": 8, "latency": 40}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.queue", description=__doc__)
    parser.add_argument("--only", choices=list(PARTS), help="leave the others out")
    parser.add_argument("--pairs", type=int, default=0, help="of each part, instead of its own number")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", type=Path, default=Path("var/bench/queue.json"))
    given = parser.parse_args(arguments)
    began = time.monotonic()
    report: dict[str, Any] = {"section": "queue", "before": describe()}
    if given.only:
        pairs = given.pairs or PAIRS[given.only] // (10 if given.quick else 1) or 1
        with own_services(f"bench-{given.only}") as home:
            report[given.only] = PARTS[given.only](home, pairs)
    else:
        for name in PARTS:
            report[name] = _apart(name, arguments)
            print(f"{name}: {json.dumps(report[name])}", file=sys.stderr, flush=True)
    report["met"] = all(report[name]["met"] for name in PARTS if name in report)
    report |= {"took_s": round(time.monotonic() - began), "machine": describe()}
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


def _apart(name: str, arguments: list[str]) -> dict[str, Any]:
    """A part in a process of its own: Django is set up once for one database."""
    command = [sys.executable, "-m", "tests.bench.queue", *arguments, "--only", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])[name]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
