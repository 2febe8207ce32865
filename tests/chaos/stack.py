"""A whole Liftoff whose every part can be killed, frozen and started again: the stage of a chaos round.

Nothing starts a part again by itself. Doesn't know which faults there are.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.chaos.schedule import LEASE_S
from tests.chaos.services import Postgres, Redis
from tests.stack import ROOT, free_port, poll

NODES = ("north", "south")
CONTROLLERS = ("controller-1", "controller-2")
WEB = "web"
DEVICES = 3
"""Of each node."""

RUNS_DISK = "48m"
_PR_SET_PDEATHSIG = 1


class Part:
    """One process and its log."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], log: Path) -> None:
        self.name = name
        self._command, self._env, self._log = command, env, log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        if self.up:
            return
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def signal(self, number: int) -> None:
        if self.process and self.up:
            self.process.send_signal(number)

    def kill(self) -> None:
        """This process alone, as the kernel would: what it leaves behind is its own matter."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def stop(self, within_s: float = 25) -> None:
        """SIGTERM, and SIGKILL when that doesn't help."""
        if self.process and self.up:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(within_s)
            self.kill()


class Stack:
    """Redis, a database, a web server, two controllers and two workers, below one temporary folder."""

    def __init__(self) -> None:
        """Nothing runs yet; `why_not` says of each fault that can't be made here why."""
        self.home = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
        self.home.chmod(0o755)
        self.why_not: dict[str, str] = {}
        self.redis = Redis(self.home / "redis")
        self.postgres: Postgres | None = None
        self.witness = self.home / "witness"
        for folder in ("redis", "logs", "witness", "store/models/tiny", "store/datasets", "portal"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        (self.home / "store/models/tiny/config.json").write_text("{}")
        for name in ("tiny", "real"):
            rows = (f'{{"text": "case {n} of sort {"ab"[n % 2]}", "label": "{"ab"[n % 2]}"}}\n' for n in range(40))
            (self.home / f"store/datasets/{name}.jsonl").write_text("".join(rows))
        self._mounts: list[Path] = []
        self.environment: dict[str, str] = {}
        self.parts: dict[str, Part] = {}
        self.client = httpx.Client()

    def start(self) -> None:
        """Bring everything up and wait until both nodes have reported. Sets Django up for this process."""
        self.redis.start()
        self.environment = {**os.environ, **self._settings()}
        os.environ.update(self._settings())
        import django

        django.setup()
        self.manage("migrate", "--verbosity", "0")
        self._fill_catalog()
        port = free_port()
        python = sys.executable
        web = ["-m", "uvicorn", "portal.asgi:application", "--port", str(port), "--lifespan", "off", "--no-access-log"]
        self._add(WEB, [python, *web, "--timeout-graceful-shutdown", "1"], self.environment)
        for name in CONTROLLERS:
            self._add(name, [python, "manage.py", "controller"], self.environment)
        for node in NODES:
            self._add(node, [python, "-m", "tests.chaos.chaos_worker"], self._worker_environment(node))
        for part in self.parts.values():
            part.start()
        token = self.manage("token", "chaos", "chaos")
        url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        poll(lambda: self._online() == list(NODES), "two nodes", 90)

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"manage.py {arguments[0]}: {done.stderr}")
        return done.stdout.strip()

    def runs_dir(self, node: str) -> Path:
        return self.home / node / "runs" / node

    def everything_up(self) -> None:
        """Start what lies down, wake what sleeps."""
        for part in self.parts.values():
            part.signal(signal.SIGCONT)
            part.start()

    def processes_of_runs(self) -> list[psutil.Process]:
        """Every living process that carries a run directory of this stack."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                run = process.environ().get("LIFTOFF_RUN", "")
                if run.startswith(f"{self.home}/") and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def log_tails(self, lines: int = 25) -> str:
        """The last words of every part."""
        tails = []
        for path in sorted((self.home / "logs").iterdir()):
            tail = "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
            tails.append(f"--- {path.name}\n{tail}")
        return "\n".join(tails)

    def stop(self, keep: bool = False) -> None:
        """End everything; `keep` leaves the folder for who wants to look."""
        self.client.close()
        for name in (*NODES, *CONTROLLERS, WEB):
            if part := self.parts.get(name):
                part.stop()
        for process in self.processes_of_runs():
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(Exception):
            from django.db import connections

            connections.close_all()
        self.redis.kill()
        if self.postgres:
            self.postgres.stop("immediate")
        for mount in self._mounts:
            if keep:  # what is on it would go
                shutil.copytree(mount, mount.with_name("runs-kept"), dirs_exist_ok=True)
            subprocess.run(["umount", "--lazy", str(mount)], check=False)
        if not keep:
            shutil.rmtree(self.home, ignore_errors=True)

    def _settings(self) -> dict[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "DATABASE_URL": self._database,
            "REDIS_URL": self.redis.url,
            "LIFTOFF_HOME": str(self.home / "portal"),
            "LIFTOFF_STORE": f"file://{self.home / 'store'}",
            "LIFTOFF_NODE_LOST_S": str(LEASE_S),
            "LIFTOFF_LEASE_S": str(LEASE_S),
            "LIFTOFF_START_TIMEOUT_S": "20",
            "LIFTOFF_STOP_GRACE_S": "3",
            "LIFTOFF_SECRET_KEY": "chaos",
        }

    def prepare_database(self) -> None:
        """PostgreSQL of its own; else TEST_DATABASE_URL's server; else SQLite."""
        try:
            self.postgres = Postgres(self.home / "postgres")
        except (LookupError, OSError, subprocess.CalledProcessError) as error:
            self.why_not["postgres"] = f"no PostgreSQL can be started here ({error})"
            self._database = _shared_database() or f"sqlite:///{self.home / 'portal' / 'liftoff.sqlite3'}"
            return
        self.postgres.start()
        self._database = self.postgres.create("liftoff")

    def prepare_disks(self) -> None:
        """A small file system for each node's runs, where we may mount one."""
        for node in NODES:
            runs = self.home / node / "runs"
            runs.mkdir(parents=True, exist_ok=True)
            # What the worker would measure for seconds.
            (self.home / node / "disk_read.json").write_text(json.dumps({"at": time.time(), "bytes_per_s": 1e9}))
            mount = ["mount", "-t", "tmpfs", "-o", f"size={RUNS_DISK}", "tmpfs", str(runs)]
            try:
                subprocess.run(mount, check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                detail = (getattr(error, "stderr", "") or str(error)).strip()
                self.why_not["disk"] = f"no small file system can be mounted here ({detail})"
                return
            self._mounts.append(runs)

    def _add(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.parts[name] = Part(name, command, env, self.home / "logs" / f"{name}.log")

    def _worker_environment(self, node: str) -> dict[str, str]:
        return {
            **self.environment,
            "LIFTOFF_HOME": str(self.home / node),
            "LIFTOFF_NODE_NAME": node,
            "LIFTOFF_METRICS_PORT": "0",
            "LIFTOFF_CHAOS_DEVICES": str(DEVICES),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def _fill_catalog(self) -> None:
        from django.contrib.auth.models import User

        from portal.catalog.models import Dataset, ModelProfile

        User.objects.create_superuser("chaos", password="not used to sign in")
        for name in ("tiny", "real"):
            ModelProfile.objects.create(
                name=name,
                source="safetensors",
                uri=f"store://models/{name}",
                architecture="LlamaForCausalLM",
                layers=2,
                hidden_size=64,
                context_length=256,
                parameters=100_000,
                disk_bytes=400_000,
                dtype="float32",
                licence="apache-2.0",
            )
            Dataset.objects.create(
                name=f"{name}-cases",
                format="text_label",
                source="cases.jsonl",
                train_uri=f"store://datasets/{name}.jsonl",
                sha256="0" * 64,
                train_rows=40,
                labels=["a", "b"],
            )

    def _online(self) -> list[str]:
        assert all(part.up for part in self.parts.values()), self.log_tails()
        try:
            page: dict[str, Any] = self.client.get("/api/v1/nodes").json()
        except httpx.HTTPError:
            return []
        return sorted(node["name"] for node in page.get("items", []) if node["online"])


def _shared_database() -> str | None:
    """A fresh database on the server that TEST_DATABASE_URL names."""
    import psycopg

    if not (url := os.environ.get("TEST_DATABASE_URL")):
        return None
    name = f"liftoff_chaos_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{url.rsplit('/', 1)[0]}/{name}"


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
