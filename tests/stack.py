"""A whole Liftoff for tests: `manage.py up` as a user runs it, in a home of its own, reached over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from workers.contract.stopping import STOP_GRACE_S, longest_stop_s

ROOT = Path(__file__).resolve().parent.parent
START_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def poll(check: Callable[[], Any], what: str, timeout_s: float = 60, every_s: float = 0.1) -> Any:
    """The first true value of `check`, tried every `every_s`; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(every_s)
    raise AssertionError(f"{what} did not come about within {timeout_s} s")


@dataclass
class Portal:
    """A running portal, with a signed-in API client."""

    home: Path
    env: dict[str, str]
    url: str
    process: "subprocess.Popen[str]"
    client: httpx.Client = field(default_factory=httpx.Client)

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.env, check=True, capture_output=True, text=True
        ).stdout.strip()

    def submit(self, spec: dict[str, Any]) -> int:
        answer = self.client.post("/api/v1/jobs", json=spec)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def job(self, pk: int) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/api/v1/jobs/{pk}").raise_for_status().json()
        return found

    def wait(
        self,
        pk: int,
        done: Callable[[dict[str, Any]], Any],
        what: str,
        timeout_s: float = 120,
        every_s: float = 0.1,
    ) -> dict[str, Any]:
        """The job once `done` holds; fails with the job's own words when it ends before."""

        def look() -> dict[str, Any] | None:
            job = self.job(pk)
            if done(job):
                return job
            assert not job["final"], f"job ended {job['status']}: {job['sentence']} {job['detail']}\n{self.tail(pk)}"
            return None

        found: dict[str, Any] = poll(look, what, timeout_s, every_s)
        return found

    def tail(self, pk: int) -> str:
        lines = self.client.get(f"/api/v1/jobs/{pk}/logs", params={"tail": True}).json()
        items = lines["items"] if isinstance(lines, dict) else lines
        return "\n".join(line["text"] for line in items[-30:])

    def stop(self) -> int:
        self.client.close()
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(longest_stop_s(STOP_GRACE_S) + 15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextmanager
def running_portal(home: Path, **env: str) -> Iterator[Portal]:
    """Start everything; sign in with a token; stop everything. `env` names a database and a Redis, or nothing."""
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL", "LIFTOFF_STORE")}
    full = {
        **clean,
        "LIFTOFF_HOME": str(home),
        "LIFTOFF_PORT": str(port),
        "LIFTOFF_METRICS_PORT": str(free_port()),
        "LIFTOFF_NODE_NAME": "test-node",
        "LIFTOFF_ALLOWED_ROOTS": str(home),
        "LIFTOFF_NODE_LOST_S": "15",
        **env,
    }
    command = [sys.executable, "manage.py", "up"]
    output = open(home / "up.log", "w+")  # noqa: SIM115 - lives as long as the process
    process = subprocess.Popen(command, cwd=ROOT, env=full, stdout=output, stderr=subprocess.STDOUT, text=True)
    portal = Portal(home, full, f"http://127.0.0.1:{port}", process)
    try:
        poll(lambda: _serves(portal.url, process, home), "the portal", START_S)
        token = portal.manage("token", "admin", "tests")
        portal.client = httpx.Client(base_url=portal.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        yield portal
    finally:
        if process.poll() is None:
            portal.stop()
        output.close()


def password(portal: Portal) -> str:
    """The admin's password, which `up` prints once."""
    text = (portal.home / "up.log").read_text()
    return text.split("with the password ")[1].split()[0]


def _serves(url: str, process: "subprocess.Popen[str]", home: Path) -> bool:
    assert process.poll() is None, (home / "up.log").read_text()
    try:
        return httpx.get(f"{url}/api/v1/openapi.json").status_code < 500
    except httpx.HTTPError:
        return False
