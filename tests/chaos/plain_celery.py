"""Beside it: the same trainings as plain Celery tasks with acks_late and reject_on_worker_lost, under the same seeds.

What a team would write first. Its visibility timeout is set as low as the longest task allows, which is in its
favour. Faults of parts that it hasn't (controller, database, web) leave it alone.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import redis
from celery import Celery

from tests.chaos import schedule
from tests.chaos.chaos_child import STEP_S
from tests.chaos.rounds import SETTLE_S, Agenda
from tests.chaos.schedule import Kind, Planned
from tests.chaos.services import Redis
from tests.chaos.stack import DEVICES, NODES, Part
from tests.chaos.work import jobs
from tests.stack import ROOT, poll
from workers.contract.names import broker_url

_FOLDER, _VISIBILITY = "LIFTOFF_PLAIN_FOLDER", "LIFTOFF_PLAIN_VISIBILITY_S"

app = Celery("plain", broker=broker_url(os.environ.get("LIFTOFF_PLAIN_REDIS", "redis://127.0.0.1:1")))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": float(os.environ.get(_VISIBILITY, 10)), "socket_timeout": 30},
)


@app.task(name="plain.train")
def train(key: str, steps: int) -> None:
    """A line for each step in a file of this very execution, and 'done'."""
    execution = Path(os.environ[_FOLDER]) / f"{key}.{os.getpid()}.{time.time_ns()}"
    with execution.open("a", buffering=1) as file:
        for step in range(1, steps + 1):
            file.write(f"{step} {time.time():.3f}\n")
            time.sleep(STEP_S)
        file.write(f"done {time.time():.3f}\n")


def compare(seed: int, rounds: int, faults: int, gap_s: float = schedule.GAP_S) -> dict[str, Any]:
    """What became of the trainings of these rounds."""
    home = Path(tempfile.mkdtemp(prefix="plain-celery-", dir="/tmp"))
    broker = Redis(home)
    broker.start()
    visibility_s = 10 * schedule.stretch(faults, gap_s)  # the longest task takes half of it
    os.environ[_FOLDER] = str(home)
    os.environ[_VISIBILITY] = str(visibility_s)
    os.environ["LIFTOFF_PLAIN_REDIS"] = broker.url
    app.conf.broker_url = broker_url(broker.url)
    workers = {node: _worker(home, node) for node in NODES}
    totals: Counter[str] = Counter()
    try:
        for part in workers.values():
            part.start()
        poll(lambda: len(app.control.ping(timeout=1) or []) == len(NODES), "two plain workers")
        for number in range(seed, seed + rounds):
            totals.update(_round(home, broker, workers, number, faults, gap_s))
            print(f"plain Celery, round of seed {number}: {dict(totals)} so far", flush=True)
    finally:
        for part in workers.values():
            part.signal(signal.SIGCONT)
            part.stop(5)
        for process in _pool_processes(home):
            with contextlib.suppress(psutil.Error):
                process.kill()
        broker.kill()
    subprocess.run(["rm", "-rf", str(home)], check=False)
    return {**totals, "visibility_timeout_s": visibility_s, "rounds": rounds, "seed": seed}


def _round(home: Path, broker: Redis, workers: dict[str, Part], seed: int, faults: int, gap_s: float) -> dict[str, int]:
    works = jobs(seed, stretch=schedule.stretch(faults, gap_s))
    trainings = {work.key: work.spec["max_steps"] for work in works if work.resumable}
    agenda, sending = Agenda(), Agenda()
    for work in works:
        if work.key in trainings:
            sending.add(work.at_s, lambda work=work: _send(work.key, trainings[work.key]))
    clerk = threading.Thread(target=sending.run, daemon=True)
    clerk.start()
    done: Counter[str] = Counter()
    down: set[str] = set()

    def strike(planned: Planned) -> Callable[[], None]:
        def action() -> None:
            undo = _inject(planned, home, broker, workers, down, trainings)
            done["faults" if undo else "faults_it_has_no_part_for"] += 1
            if undo:
                agenda.add(agenda.now_s + planned.hold_s, undo)

        return action

    for planned in schedule.plan(seed, faults, gap_s):
        agenda.add(planned.at_s, strike(planned))
    agenda.run()
    for part in workers.values():
        part.signal(signal.SIGCONT)
        part.start()
    clerk.join(SETTLE_S)
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline and not trainings.keys() <= _finished(home):
        time.sleep(0.5)
    time.sleep(5 * schedule.stretch(faults, gap_s))  # a second execution shows
    return {**done, **_judge(home, trainings)}


def _judge(home: Path, trainings: dict[str, int]) -> dict[str, int]:
    found: Counter[str] = Counter(trainings=len(trainings))
    for key, steps in trainings.items():
        executions = [path.read_text().splitlines() for path in home.glob(f"{key}.*")]
        spans = sorted((_at(lines[0]), _at(lines[-1])) for lines in executions if lines)
        finished = sum(lines[-1].startswith("done") for lines in executions if lines)
        found["lost"] += not finished
        found["finished_more_than_once"] += finished > 1
        found["two_at_once"] += any(since < until for (_, until), (since, _) in itertools.pairwise(spans))
        found["steps_done_again"] += max(sum(map(len, executions)) - finished - steps, 0)
    return found


def _inject(
    planned: Planned, home: Path, broker: Redis, workers: dict[str, Part], down: set[str], trainings: dict[str, int]
) -> Callable[[], None] | None:
    """Do it; what undoes it, None when plain Celery has no such part."""
    node = NODES[int(planned.pick * len(NODES))]
    part = workers[node]

    def nothing() -> None:
        return None

    match planned.kind:
        case Kind.KILL_CHILD:
            busy = _busy(home)
            if not busy:
                return None
            busy[int(planned.pick * len(busy))].kill()
            return nothing
        case Kind.KILL_WORKER | Kind.STOP_WORKER:
            part.kill() if planned.kind is Kind.KILL_WORKER else part.stop(5)
            return part.start
        case Kind.PAUSE_WORKER:
            part.signal(signal.SIGSTOP)
            return lambda: part.signal(signal.SIGCONT)
        case Kind.RESTART_REDIS | Kind.EMPTY_REDIS if "redis" not in down:
            down.add("redis")
            broker.kill()

            def start() -> None:
                if planned.kind is Kind.EMPTY_REDIS:
                    broker.forget()
                broker.start()
                down.discard("redis")

            return start
        case Kind.FLUSH_REDIS if "redis" not in down:
            broker.client().flushall()
            return nothing
        case Kind.REPEAT_ORDERS if "redis" not in down:
            for key, steps in list(trainings.items())[:4]:
                if list(home.glob(f"{key}.*")):
                    _send(key, steps)
            return nothing
    return None


def _send(key: str, steps: int) -> None:
    """Until the broker takes it, as the clerk of the other suite does."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            train.apply_async(args=[key, steps], retry=False)
            return
        time.sleep(0.3)


def _finished(home: Path) -> set[str]:
    return {path.name.split(".")[0] for path in home.glob("*.*.*") if "done" in path.read_text()[-40:]}


def _busy(home: Path) -> list[psutil.Process]:
    """Pool processes that are at a step now."""
    pids = defaultdict(float)
    for path in home.glob("*.*.*"):
        pids[int(path.name.split(".")[1])] = max(pids[int(path.name.split(".")[1])], path.stat().st_mtime)
    fresh = sorted(pid for pid, at in pids.items() if at > time.time() - 3 * STEP_S)
    return [psutil.Process(pid) for pid in fresh if psutil.pid_exists(pid)]


def _pool_processes(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_FOLDER) == str(home) and process.pid != os.getpid():
                found.append(process)
    return found


def _at(line: str) -> float:
    return float(line.split()[1])


def _worker(home: Path, node: str) -> Part:
    command = [
        *(sys.executable, "-m", "celery", "-A", "tests.chaos.plain_celery", "worker", "-n", f"plain@{node}"),
        *("--concurrency", str(DEVICES), "--loglevel", "WARNING"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return Part(node, command, environment, home / f"{node}.log")


if __name__ == "__main__":
    with contextlib.suppress(redis.RedisError):
        print(compare(*map(int, sys.argv[1:4]), *map(float, sys.argv[4:])))
