"""Who holds this node's devices: real processes, found by the run they were started for."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.workers.conftest import eventually
from tests.workers.test_probe import GIB, FakeNvml
from workers.child import RUN_ENV
from workers.nvml import Nvml
from workers.occupants import occupants


@pytest.fixture
def start(tmp_path):
    """Starts `python sleeper.py --token secret` with these variables."""
    script = tmp_path / "sleeper.py"
    script.write_text("import time; time.sleep(600)")
    processes = []

    def started(**environment):
        command = [sys.executable, "-S", str(script), "--token", "secret"]
        processes.append(subprocess.Popen(command, env={**os.environ, **environment}))
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        process.wait()


def test_a_cpu_tells_of_the_processes_of_its_runs_alone(tmp_path, start):
    ours = start(**{RUN_ENV: str(tmp_path / "7-2-abc")})
    start()
    start(**{RUN_ENV: str(tmp_path / "notes")})
    start(**{RUN_ENV: "/elsewhere/7-3-abc"})
    (cpu,) = eventually(lambda: (found := occupants(tmp_path, None)) and found[0].processes and found)
    (process,) = cpu.processes
    assert (cpu.kind, cpu.memory_bytes, process.pid) == ("cpu", None, ours.pid)
    assert (process.run.job, process.run.attempt, process.run.token) == (7, 2, "abc")
    assert process.bytes > 0
    assert process.name.endswith("sleeper.py")
    assert "secret" not in process.name


class Held(FakeNvml):
    """Two processes on each GPU: one here, one of another container."""

    here = 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle):
        return [SimpleNamespace(pid=self.here, usedGpuMemory=3 * GIB), SimpleNamespace(pid=2**31 - 5, usedGpuMemory=5)]

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle):
        return []

    def nvmlSystemGetProcessName(self, pid):
        return b"/usr/bin/far-away"


def test_a_gpu_tells_of_everyone(tmp_path, start):
    library = Held()
    library.here = start(**{RUN_ENV: str(tmp_path / "7-2-abc")}).pid
    first, second, _ = eventually(
        lambda: (found := occupants(tmp_path, Nvml(library, {}))) and found[0].processes[0].run and found
    )
    assert (first.index, first.memory_bytes, second.memory_bytes) == (0, GIB, 2 * GIB)
    ours, theirs = first.processes
    assert (ours.bytes, ours.run.job) == (3 * GIB, 7)
    assert (theirs.name, theirs.bytes, theirs.run) == ("far-away", 5, None)
