"""Claims a second: jobs that one controller gives devices and sends to their nodes, beside raw Celery.

A claim is all of it: the round's reading and deciding, the job's new state, its attempt, its devices and the note on
its timeline committed durably, its lease and its order in Redis. Raw Celery sends as many tasks that do nothing, by the
same Redis, and its worker carries them out; nothing of it is stored. Of Celery's pools the one that is quickest here.
"""

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

from tests.bench.queue.stage import copies, durability, fleet, parts, pattern_job, spread
from workers.contract.names import broker_url, node_queue

GOAL = 0.5
NODES, DEVICES = 125, 8
POOLS = ("solo", "threads", "prefork")
_QUEUE = "noop"

app = Celery("noop", broker=broker_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:1")))
app.conf.update(
    task_ignore_result=True,
    task_default_queue=_QUEUE,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop() -> None:
    """Nothing."""


def measure(home: Path, pairs: int) -> dict[str, Any]:
    """So many pairs, in turn."""
    nodes, pattern = fleet(NODES, DEVICES), pattern_job()
    app.conf.broker_url = broker_url(os.environ["REDIS_URL"])
    jobs = NODES * DEVICES
    pool = max(POOLS, key=lambda each: _of_celery(home, each, [jobs])[0])
    _claims(pattern, nodes, 50)
    claimed, carried = [], []
    for _ in range(pairs):
        claimed.append(_claims(pattern, nodes, jobs))
        carried += _of_celery(home, pool, [jobs])
    ratio = spread([ours / theirs for ours, theirs in zip(claimed, carried, strict=True)], 2)
    return {
        "pairs": pairs,
        "jobs": jobs,
        "claims_per_s": spread(claimed),
        "celery_noop_per_s": spread(carried),
        "celery_pool": pool,
        "claims_over_celery": ratio,
        "goal": GOAL,
        "postgres": durability(),
        "met": ratio["median"] >= GOAL,
    }


def _claims(pattern: Any, nodes: list[Any], jobs: int) -> float:
    """A second. Devices are free when this begins."""
    from django.utils import timezone

    from portal.fleet.models import Node
    from portal.jobs import loop
    from portal.jobs.connection import client
    from portal.jobs.models import Allocation, Attempt, Job

    now = timezone.now()
    Allocation.objects.filter(released_at=None).update(released_at=now)
    Attempt.objects.filter(finished_at=None).update(finished_at=now, reason="completed")
    Job.objects.exclude(status="succeeded").update(status="succeeded", finished_at=now)
    Node.objects.update(last_seen_at=now)
    client().flushdb()
    copies(pattern, jobs)
    done, began = 0, time.perf_counter()
    while done < jobs:
        done += loop.tick()
    took = time.perf_counter() - began
    sent = sum(client().llen(node_queue(node.name)) for node in nodes)  # type: ignore[misc]
    assert sent == jobs == Job.objects.filter(status="dispatched").count(), sent
    return jobs / took


def _of_celery(home: Path, pool: str, rounds: list[int]) -> list[float]:
    """Tasks a second of each round: from the first one sent to the last one carried out."""
    from portal.jobs.connection import client

    client().flushdb()
    worker = ["-m", "celery", "-A", "tests.bench.queue.claims", "worker", "--pool", pool, "--concurrency", "2"]
    found = []
    with parts(home, [*worker, "--loglevel", "ERROR", "--queues", _QUEUE, "--without-gossip", "--without-mingle"]):
        _carry(20)
        for tasks in rounds:
            began = time.perf_counter()
            _carry(tasks)
            found.append(tasks / (time.perf_counter() - began))
    return found


def _carry(tasks: int) -> None:
    from portal.jobs.connection import client

    for _ in range(tasks):
        noop.delay()
    deadline = time.monotonic() + 60
    while client().llen(_QUEUE) or client().hlen("unacked"):
        assert time.monotonic() < deadline, "Celery's worker doesn't carry them out"
        time.sleep(0.002)
