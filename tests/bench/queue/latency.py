"""From a device coming free to the order of the job that gets it being in its node's queue: behind 100, behind 10,000.

One real controller; the moment a device comes free is the commit that ends its attempt. The nodes are told here: what
is measured is the controller. In blocks, so that both lengths see the same machine.
"""

import os
import random
import time
from pathlib import Path
from typing import Any

from tests.bench.queue.stage import COMMANDS, copies, durability, fleet, parts, pattern_job, spread
from tests.stack import poll
from workers.contract.names import node_queue

GOAL = 1.5
SHORT, LONG = 100, 10_000
NODES, DEVICES = 8, 8
BLOCK = 10
_SETTLE_S = 180


def measure(home: Path, pairs: int) -> dict[str, Any]:
    """So many orders behind each."""
    os.environ["LIFTOFF_NODE_LOST_S"] = "100000"  # no worker is there to report
    nodes, pattern = fleet(NODES, DEVICES), pattern_job()
    took: dict[int, list[float]] = {SHORT: [], LONG: []}
    draw = random.Random(1)
    with parts(home, COMMANDS["controller"]):
        copies(pattern, NODES * DEVICES - 1 + LONG)
        for _ in range(NODES * DEVICES):
            _started([node.name for node in nodes])
        while len(took[LONG]) < pairs:
            for length in (SHORT, LONG):
                _have_waiting(length)
                for _ in range(min(BLOCK, pairs)):
                    time.sleep(draw.uniform(0.5, 1.5))  # anywhere in the controller's round
                    took[length].append(_free_one([node.name for node in nodes]))
                    copies(pattern, 1)
    ratio = round(spread(took[LONG])["median"] / spread(took[SHORT])["median"], 2)
    return {
        "orders": len(took[LONG]),
        "ms_behind_100": spread(took[SHORT]),
        "ms_behind_10000": spread(took[LONG]),
        "long_over_short": ratio,
        "goal": GOAL,
        "postgres": durability(),
        "met": ratio <= GOAL,
    }


def _free_one(nodes: list[str]) -> float:
    """Milliseconds."""
    from portal.jobs.models import Attempt
    from portal.jobs.services import finish
    from workers.contract.reasons import Reason

    oldest = Attempt.objects.filter(finished_at=None).order_by("pk").values_list("job_id", "number")[0]
    assert finish(*oldest, Reason.COMPLETED)
    began = time.perf_counter()
    _started(nodes)
    return (time.perf_counter() - began) * 1000


def _started(nodes: list[str]) -> None:
    """Wait for one order, as its node would."""
    import base64
    import json

    from portal.jobs.connection import client
    from portal.jobs.services import mark_started

    found: Any = None
    deadline = time.monotonic() + _SETTLE_S
    while found is None:
        assert time.monotonic() < deadline, "no order was sent"
        found = client().brpop([node_queue(name) for name in nodes], timeout=2)
    (order,), _, _ = json.loads(base64.b64decode(json.loads(found[1])["body"]))
    mark_started(order["job"], order["attempt"])


def _have_waiting(length: int) -> None:
    """So many queued jobs, each told its place; the others are out of sight."""
    from django.db import connection

    from portal.jobs.models import Job

    waiting = Job.objects.filter(status="queued")
    keep = waiting.order_by("pk").values_list("pk", flat=True)[:length]
    waiting.exclude(pk__in=list(keep)).update(status="cancelled", name="parked")
    if missing := length - waiting.count():
        parked = Job.objects.filter(name="parked").order_by("pk").values_list("pk", flat=True)[:missing]
        Job.objects.filter(pk__in=list(parked)).update(status="queued", name="waiting", queue_position=None)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE jobs_job")
    poll(lambda: not waiting.filter(queue_position=None).exists(), "a place for everybody", _SETTLE_S)
