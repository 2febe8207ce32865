"""Metrics for Prometheus and heartbeats for the portal."""

import socket
import urllib.request

from tests.workers.conftest import eventually
from workers.beats import Heart
from workers.contract.events import DeviceProfile, DeviceUse, NodeProfile, RunningAttempt
from workers.exporter import WorkerCollector, start_exporter
from workers.nvml import DeviceSample
from workers.sinks import MemorySink

GPU = DeviceSample(0, "cuda", "H100", 97.0, 2**30, 2**33, 650.5)
UNMETERED = DeviceSample(1, "cuda", "H100", None, None, None, None)
PROFILE = NodeProfile(
    name="n1",
    cores=2,
    ram_bytes=1,
    disk_free_bytes=1,
    devices=(DeviceProfile(kind="cpu", index=0, name="c", memory_bytes=1),),
)


def test_what_prometheus_reads():
    server = start_exporter("127.0.0.1", 0, WorkerCollector(lambda: 3, lambda: [GPU, UNMETERED]))
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    server.shutdown()
    server.server_close()
    assert 'liftoff_device_utilisation_percent{device="0",kind="cuda",name="H100"} 97.0' in lines
    assert 'liftoff_device_power_watts{device="0",kind="cuda",name="H100"} 650.5' in lines
    assert not any('device="1"' in line for line in lines)
    assert "liftoff_worker_running_attempts 3.0" in lines
    assert any(line.startswith("liftoff_worker_events_shipped_total ") for line in lines)
    assert any(line.startswith("liftoff_worker_events_waiting_bytes ") for line in lines)


def test_a_taken_port_is_a_warning(caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert start_exporter("127.0.0.1", port, WorkerCollector(lambda: 0, list)) is None
    assert f"LIFTOFF_METRICS_PORT {port}" in caplog.text


def test_the_profile_comes_first_and_again_after_an_outage():
    sink = MemorySink()
    heart = Heart("n1", sink, lambda: (RunningAttempt(job=1, attempt=1),), lambda: PROFILE)
    heart.beat()
    heart.beat()
    sink.down.set()
    heart.beat()
    sink.down.clear()
    heart.beat()
    assert [beat.profile for beat in sink.beats] == [PROFILE, None, PROFILE]
    assert sink.beats[0].running == (RunningAttempt(job=1, attempt=1),)


def test_who_holds_the_devices_is_looked_at_now_and_then_and_never_keeps_a_heart_from_beating():
    sink = MemorySink()
    answers = iter([(DeviceUse(kind="cpu", index=0),)])
    heart = Heart("n1", sink, tuple, lambda: PROFILE, lambda: next(answers))
    heart.beat()
    heart.beat()
    assert [beat.devices for beat in sink.beats] == [(DeviceUse(kind="cpu", index=0),), None]
    broken = Heart("n1", sink, tuple, lambda: PROFILE, lambda: next(answers))
    broken.beat()
    assert len(sink.beats) == 3


def test_a_heart_that_stops_beats_once_more():
    sink = MemorySink()
    heart = Heart("n1", sink, tuple, lambda: PROFILE)
    heart.start()
    eventually(lambda: sink.beats)
    heart.stop()
    assert len(sink.beats) >= 2
