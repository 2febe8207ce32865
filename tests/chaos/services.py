"""A Redis and a PostgreSQL of the suite's own, which it may kill, empty and start again.

Doesn't know who uses them.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import redis

from tests.stack import free_port

START_S = 30.0
_SUPERUSER = "postgres"


class Redis:
    """Started on a Unix socket below `folder`, its data appended to a file with every write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "redis.sock"
        self.url = f"unix://{self._socket}?db=0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        from portal.local.stack import redis_binary

        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = [
            *(redis_binary(), "--port", "0", "--unixsocket", str(self._socket), "--dir", str(data)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"),
        ]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        client = self.client()
        _until(lambda: bool(client.ping()), "Redis", redis.RedisError)

    def kill(self) -> None:
        """As a crash; what was acknowledged is in its file."""
        if self._process:
            self._process.kill()
            self._process.wait()
        self._socket.unlink(missing_ok=True)

    def forget(self) -> None:
        """Lose all data. Only while it is down."""
        shutil.rmtree(self._folder / "data", ignore_errors=True)

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url, socket_timeout=5, decode_responses=True)


class Postgres:
    """A cluster of its own below `folder`, durable as PostgreSQL is by default; run by an unprivileged user."""

    def __init__(self, folder: Path) -> None:
        """Makes the cluster. Raises LookupError where the server isn't installed."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            raise LookupError("no PostgreSQL server is installed (/usr/lib/postgresql/*/bin)")
        self._bin = found[-1].parent
        self._folder = folder
        self._port = free_port()
        self._user = _unprivileged()
        folder.mkdir(parents=True, exist_ok=True)
        if self._user:
            os.chown(folder, *self._ids())
        self._data = folder / "data"
        self._call("initdb", "--pgdata", str(self._data), "--auth", "trust", "--username", _SUPERUSER, "--no-sync")
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"\nport = {self._port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{folder}'\n"
                "max_connections = 120\nshared_buffers = 128MB\nmax_wal_size = 4GB\n"
            )

    def url(self, database: str) -> str:
        return f"postgres://{_SUPERUSER}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        self._call("pg_ctl", "start", "--pgdata", str(self._data), "--log", str(self._folder / "postgres.log"), "-w")

    def create(self, database: str) -> str:
        """A fresh database; its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def stop(self, mode: str = "fast") -> None:
        """`mode`: fast closes its connections, immediate is as a crash."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._call("pg_ctl", "stop", "--pgdata", str(self._data), "--mode", mode, "-w")

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._bin / program), *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open as long as the server
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            user=self._user,
            group=self._ids()[1] if self._user else None,
            extra_groups=[] if self._user else None,
        )

    def _ids(self) -> tuple[int, int]:
        entry = pwd.getpwnam(self._user or "")
        return entry.pw_uid, entry.pw_gid


def _unprivileged() -> str | None:
    """Whom to run a server as that refuses to be root's; None when we aren't root."""
    if os.getuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return "nobody"


def _until(true: Callable[[], bool], what: str, *errors: type[Exception]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(*errors):
            if true():
                return
        time.sleep(0.02)
    raise TimeoutError(f"{what} did not answer within {START_S:.0f} s")
