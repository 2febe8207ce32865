"""A real worker process on a real Redis: orders come in by Celery, events go out by streams."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.conftest import missing
from tests.workers.conftest import HERE, ROOT, alive, check_complete, eventually, make_order, read_stream, redis_client
from workers.contract.events import Envelope, Heartbeat
from workers.contract.names import (
    CANCEL_TASK,
    EPOCH_FIELD,
    LEASES,
    NODE_STREAM,
    PREEMPT_TASK,
    RESEND_TASK,
    REVOKE_TASK,
    START_TASK,
    broker_url,
    job_stream,
    node_queue,
)
from workers.contract.reasons import Reason

_jobs = itertools.count(uuid.uuid4().int % 10**9 * 1000)
"""Numbers that no other user of the same Redis has."""


class Node:
    """A worker process, and the portal's end of its wires."""

    def __init__(self, folder: Path, redis_url: str, *command: str) -> None:
        self.folder = folder
        self.url = redis_url
        self.name = f"test-{uuid.uuid4().hex[:12]}"
        self._command = command or (sys.executable, str(HERE / "worker_with_fake_child.py"))
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": redis_url,
            "LIFTOFF_NODE_NAME": self.name,
            "LIFTOFF_HOME": str(folder),
            "LIFTOFF_METRICS_PORT": "0",
            "LIFTOFF_STOP_GRACE_S": "3",
        }
        self.log = folder / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.jobs: list[int] = []
        self._portal = Celery("portal", broker=broker_url(redis_url), set_as_current=False)
        self._portal.conf.update(task_ignore_result=True, broker_transport_options={"socket_timeout": 30})

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT
            )
        seen = self.log_text().count("Ready for orders")
        eventually(lambda: self.log_text().count("Ready for orders") > seen, within_s=60)

    def log_text(self) -> str:
        return self.log.read_text()

    def send(self, behaviour: str, **changes: Any) -> int:
        """Order a run of the fake child; its job number."""
        job = next(_jobs)
        self.jobs.append(job)
        spec = {"kind": "launch", "model": "tiny", "name": behaviour}
        order = make_order(self.folder / "store", job=job, node=self.name, **{"spec": spec, **changes})
        self._send(START_TASK, order)
        return job

    def cancel(self, job: int, attempt: int = 1) -> None:
        self._send(CANCEL_TASK, job, attempt)

    def _send(self, task: str, *args: object) -> None:
        self._portal.send_task(task, args=args, queue=node_queue(self.name))

    def events(self, job: int) -> list[Envelope]:
        return read_stream(self.url, job)

    def pids(self, job: int) -> list[int]:
        results = eventually(lambda: [it.event for it in self.events(job) if it.event.type == "result"])
        return list(results[0].values["pids"])

    def finished(self, job: int, killed: bool = False) -> Any:
        """Its end, once all its events are there, each once; a worker that was killed may have to send some again."""
        eventually(lambda: any(it.event.type == "finished" for it in self.events(job)), within_s=120)
        told = self.events(job)
        return check_complete(list({it.seq: it for it in told}.values()) if killed else told)

    def finished_again(self, job: int, expected: list[Envelope]) -> None:
        eventually(lambda: self.events(job) == expected)

    def beats(self) -> list[Heartbeat]:
        entries = redis_client(self.url).xrange(NODE_STREAM)
        beats = [Heartbeat.model_validate_json(fields[b"beat"]) for _, fields in entries]
        return [beat for beat in beats if beat.node == self.name]

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        client = redis_client(self.url)
        client.delete(node_queue(self.name), *[job_stream(job) for job in self.jobs])
        client.delete(*[f"_kombu.binding{kind}.{node_queue(self.name)}" for kind in ("", "_permanent")])
        for entry, fields in client.xrange(NODE_STREAM):
            if self.name.encode() in fields[b"beat"]:
                client.xdel(NODE_STREAM, entry)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Node]:
    made = Node(tmp_path_factory.mktemp("node"), redis_url)
    try:
        made.start()
        yield made
    finally:
        made.end()


@pytest.fixture
def fresh_node(tmp_path: Path, redis_url: str) -> Iterator[Node]:
    """A node of its own for a test that ends it."""
    made = Node(tmp_path, redis_url)
    try:
        made.start()
        yield made
    finally:
        made.end()


def test_an_order_runs_to_its_end(node):
    job = node.send("train")
    assert node.finished(job).reason is Reason.COMPLETED
    assert [it.event.values["loss"] for it in node.events(job) if it.event.type == "metric"] == [3.0, 1.5, 1.0]
    assert (node.folder / "store/runs" / f"{job}-1" / "adapter").is_dir()


def test_a_duplicate_of_an_order_is_ignored(node):
    job = node.send("train")
    node.finished(job)
    before = node.events(job)
    order = make_order(node.folder / "store", job=job, node=node.name)
    node._send(START_TASK, order)
    node.finished(node.send("train"))
    assert node.events(job) == before


def test_a_running_job_is_cancelled_though_every_device_is_busy(node):
    job = node.send("ignore_sigterm")
    pids = node.pids(job)
    eventually(lambda: any((job, 1) in [(it.job, it.attempt) for it in beat.running] for beat in node.beats()))
    node.cancel(job)
    assert node.finished(job).reason is Reason.CANCELLED
    assert [pid for pid in pids if alive(pid)] == []


def test_a_cancel_may_come_before_its_order(node):
    node.cancel(next_job := node.send("train") + 1)
    job = node.send("train")
    assert job == next_job
    assert node.finished(job).reason is Reason.CANCELLED


def test_a_bad_order_ends_with_a_reason(node):
    assert node.finished(node.send("train", spec_version=99)).reason is Reason.UNSUPPORTED_SPEC
    missing_model = node.finished(node.send("train", model={"name": "x", "uri": "store://models/none"}))
    assert missing_model.reason is Reason.ARTIFACT_MISSING


def test_the_first_beat_tells_what_the_node_is(node):
    beats = eventually(node.beats)
    assert beats[0].profile.name == node.name
    assert beats[0].profile.devices


def test_sigterm_ends_everything_and_the_worker_leaves(fresh_node):
    job = fresh_node.send("ignore_sigterm")
    pids = fresh_node.pids(job)
    fresh_node.process.send_signal(signal.SIGTERM)
    assert fresh_node.process.wait(20) == 0
    assert fresh_node.finished(job).reason is Reason.WORKER_STOPPED
    assert [pid for pid in pids if alive(pid)] == []
    assert fresh_node.beats()[-1].running == ()


TRAIN = {"kind": "finetune", "model": "tiny", "dataset": "d"}


def test_a_preempted_run_saves_its_work_first(node):
    job = node.send("", spec={**TRAIN, "name": "save_at_sigterm"})
    node.pids(job)
    node._send(PREEMPT_TASK, job, 1)
    assert node.finished(job).reason is Reason.PREEMPTED
    (stored,) = [it.event for it in node.events(job) if it.event.type == "checkpoint"]
    assert (node.folder / "store" / stored.uri.removeprefix("store://") / "state").read_text() == "7"


def test_a_worker_that_stops_lets_its_runs_save_their_work(fresh_node):
    job = fresh_node.send("", spec={**TRAIN, "name": "save_at_sigterm"})
    fresh_node.pids(job)
    fresh_node.process.terminate()
    assert fresh_node.process.wait(30) == 0
    assert fresh_node.finished(job).reason is Reason.WORKER_STOPPED
    assert [it.event.step for it in fresh_node.events(job) if it.event.type == "checkpoint"] == [7]


def test_heartbeats_name_the_token_and_the_last_event(node):
    job = node.send("fail_at_sigterm", token="abc")
    node.pids(job)
    told = node.events(job)[-1].seq

    def named() -> list[Any]:
        return [it for beat in node.beats() for it in beat.running if it.job == job and it.last_seq >= told]

    assert eventually(named)[0].token == "abc"
    node.cancel(job)
    node.finished(job)


def test_a_revoked_run_ends_in_silence(node):
    job = node.send("ignore_sigterm", token="abc")
    pids = node.pids(job)
    before = node.events(job)[-1].seq
    node._send(REVOKE_TASK, job, 1, "abc")
    eventually(lambda: not any(alive(pid) for pid in pids))
    eventually(lambda: all(it.job != job for it in node.beats()[-1].running))
    sampled = [it for it in node.events(job) if it.seq > before]
    assert {it.event.type for it in sampled} <= {"metric"}


def test_events_that_redis_lost_are_sent_again(node):
    job = node.send("train", token="abc")
    node.finished(job)
    told = node.events(job)
    redis_client(node.url).delete(job_stream(job))
    node._send(RESEND_TASK, job, 1, "abc", 2)
    node.finished_again(job, told[2:])


def test_a_worker_that_slept_past_its_lease_finds_it_gone_and_ends_it(tmp_path, own_redis):
    node, client = Node(tmp_path, own_redis.url), redis_client(own_redis.url)
    try:
        node.start()
        job = next(_jobs)
        client.hset(LEASES, mapping={str(job + 1): "1:abc", EPOCH_FIELD: "1"})
        assert node.send("ignore_sigterm", token="abc", lease_s=3) == job + 1
        pids = node.pids(job + 1)
        node.process.send_signal(signal.SIGSTOP)
        client.hset(LEASES, str(job + 1), "2:other")
        asleep = time.monotonic()
        eventually(lambda: time.monotonic() > asleep + 4)
        node.process.send_signal(signal.SIGCONT)
        eventually(lambda: not any(alive(pid) for pid in pids))
        eventually(lambda: node.beats()[-1].running == ())
        assert node.finished(job + 1).reason is Reason.NODE_LOST
    finally:
        node.end()


def test_after_kill_9_nothing_is_left_and_the_next_start_tells_the_end(fresh_node):
    job = fresh_node.send("ignore_sigterm")
    pids = fresh_node.pids(job)
    fresh_node.process.kill()
    fresh_node.process.wait()
    eventually(lambda: not any(alive(pid) for pid in pids))
    assert not any(it.event.type == "finished" for it in fresh_node.events(job))
    fresh_node.start()
    assert fresh_node.finished(job, killed=True).reason is Reason.WORKER_STOPPED
    assert fresh_node.finished(fresh_node.send("train")).reason is Reason.COMPLETED


def test_a_broker_that_restarts_is_found_again(tmp_path, own_redis):
    node = Node(tmp_path, own_redis.url)
    try:
        node.start()
        running = node.send("fail_at_sigterm")
        node.pids(running)
        own_redis.stop()
        eventually(lambda: "Heartbeats don't arrive" in node.log_text())
        own_redis.start()
        eventually(lambda: "Heartbeats arrive again" in node.log_text(), within_s=30)
        assert node.finished(node.send("train")).reason is Reason.COMPLETED
        node.cancel(running)
        assert node.finished(running).reason is Reason.CANCELLED
    finally:
        node.end()


def test_a_worker_stops_although_its_broker_is_away(tmp_path, own_redis):
    node = Node(tmp_path, own_redis.url)
    try:
        node.start()
        pids = node.pids(node.send("ignore_sigterm"))
        own_redis.stop()
        eventually(lambda: "Heartbeats don't arrive" in node.log_text())
        node.process.terminate()
        node.process.wait(40)
        assert [pid for pid in pids if alive(pid)] == []
    finally:
        node.kill()


def test_the_installed_worker_runs_real_runtimes_and_serves_metrics(tmp_path, redis_url):
    if find_spec("torch") is None:
        missing("torch is not installed")
    node = Node(tmp_path, redis_url, sys.executable, "-m", "workers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node._environment["LIFTOFF_METRICS_PORT"] = str(port)
    try:
        node.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
        assert "liftoff_device_memory_total_bytes{" in text
        assert "liftoff_worker_running_attempts 0.0" in text
        spec = {"kind": "finetune", "model": "tiny", "dataset": "d"}
        finished = node.finished(node.send("", spec=spec, dataset=None))
        assert finished.reason is Reason.INVALID_INPUT
        assert "dataset" in finished.detail
    finally:
        node.end()


def test_a_worker_without_redis_url_says_so(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
    ended = subprocess.run(
        [sys.executable, "-m", "workers"],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("REDIS_URL is not set; ")


def test_a_second_worker_of_the_same_node_is_refused(node):
    second = subprocess.run(node._command, env=node._environment, capture_output=True, text=True, timeout=60)
    assert second.returncode != 0
    assert "Another worker is running" in second.stderr
