"""From submitting a job over REST to its child's first word, beside the same child started by hand.

Both ends of both times are read on this machine's clock: just before the request, or the command, is sent; and when
whoever reads the child's events has its first line. The child is a preflight's, which loads no torch before that.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from tests.bench.queue.stage import COMMANDS, durability, parts, spread
from tests.stack import ROOT, free_port, poll

GOAL_MEDIAN_MS, GOAL_P99_MS = 300, 1000
NODE = "bench-node"
SPEC = {"kind": "preflight", "resources": {"node": NODE}}
_FINAL_S = 60


def measure(home: Path, pairs: int) -> dict[str, Any]:
    """So many pairs, the bare command first in every other one."""
    from django.contrib.auth.models import User

    from portal.accounts.services import create_token

    user = User.objects.create_superuser("bench", password="not used to sign in")
    _, secret = create_token(user, "bench")
    port = free_port()
    os.environ.update(LIFTOFF_NODE_NAME=NODE, LIFTOFF_METRICS_PORT="0", LIFTOFF_STORE=f"file://{home / 'store'}")
    (home / "store").mkdir()
    web = ["-m", "uvicorn", "portal.asgi:application", "--port", str(port), "--lifespan", "off", "--no-access-log"]
    with (
        parts(home, web, COMMANDS["controller"], COMMANDS["worker"]),
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {secret}"}, timeout=10
        ) as client,
    ):
        poll(lambda: _online(client), "the node", 90)
        run_dir = _whole(client, home)
        bare, through = [], []
        for number in range(pairs):
            if number % 2:
                through.append(_submitted(client))
                bare.append(_by_hand(run_dir))
            else:
                bare.append(_by_hand(run_dir))
                through.append(_submitted(client))
    added = spread([ours - theirs for ours, theirs in zip(through, bare, strict=True)])
    return {
        "pairs": pairs,
        "bare_ms": spread(bare),
        "submitted_ms": spread(through),
        "added_ms": added,
        "goal_ms": {"median": GOAL_MEDIAN_MS, "p99": GOAL_P99_MS},
        "postgres": durability(),
        "met": added["median"] <= GOAL_MEDIAN_MS and added["p99"] <= GOAL_P99_MS,
    }


def _online(client: httpx.Client) -> bool:
    try:
        return any(node["online"] for node in client.get("/api/v1/nodes").json().get("items", []))
    except httpx.HTTPError:
        return False


def _whole(client: httpx.Client, home: Path) -> Path:
    """A first job, to its end: what is imported and made once is there. Its run directory."""
    job = client.post("/api/v1/jobs", json=SPEC).raise_for_status().json()["id"]
    poll(lambda: client.get(f"/api/v1/jobs/{job}").json()["final"], "the first job's end", 180)
    return next(path.parent for path in home.rglob("order.json"))


def _submitted(client: httpx.Client) -> float:
    """Milliseconds; the job is stopped then, and over when this returns."""
    began = time.time()
    job = client.post("/api/v1/jobs", json=SPEC).raise_for_status().json()["id"]

    def first_word() -> Any:
        events = client.get(f"/api/v1/jobs/{job}/events").json()["events"]
        return next((event for event in events if event["type"] == "phase"), None)

    at: float = poll(first_word, "the child's first word")["at"]
    client.post(f"/api/v1/jobs/{job}/cancel").raise_for_status()
    poll(lambda: client.get(f"/api/v1/jobs/{job}").json()["final"], "the job's end", _FINAL_S)
    return (at - began) * 1000


def _by_hand(run_dir: Path) -> float:
    """Milliseconds of the same command in the same environment, without a portal."""
    from workers.child import child_command, child_environment
    from workers.contract.names import EVENTS_FD_ENV
    from workers.contract.order import Order

    order = Order.model_validate_json((run_dir / "order.json").read_bytes())
    environment = child_environment(order, run_dir, os.environ)
    reading, writing = os.pipe()
    began = time.time()
    child = subprocess.Popen(
        child_command(run_dir),
        env={**environment, EVENTS_FD_ENV: str(writing)},
        pass_fds=[writing],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as events:
        first = json.loads(events.readline())
        took = time.time() - began
        assert first["type"] == "phase", first
        child.kill()
    child.wait()
    return took * 1000
