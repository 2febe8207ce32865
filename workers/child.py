"""The child process of a run: its environment, its start under the guard, its end.

The environment is built from an allow-list: what isn't named here doesn't reach the child. Doesn't know what the
child does nor why it is ended.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from workers import guard
from workers.contract.names import EVENTS_FD_ENV
from workers.contract.order import Order

RUN_ENV = "LIFTOFF_RUN"
"""Environment variable with the run directory; every process of a run carries it, so that none can be lost."""

_ALLOWED = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "TZ", "XDG_CACHE_HOME"),
        *("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH", "CUDA_HOME", "OMP_NUM_THREADS"),
        *("HF_HOME", "HF_HUB_OFFLINE", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR"),
        *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "LIFTOFF_NODE_ADDRESS", "LIFTOFF_ALLOWED_ROOTS"),
    )
)
_ALLOWED_PREFIXES = ("LC_", "NCCL_", "GLOO_")
_NEVER = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$|^AWS_|DATABASE_URL|REDIS_URL")

_TRUST_S = 0.5
"""The guard kills after the grace period; this much later its owner stops trusting it."""


def child_environment(order: Order, run_dir: Path, base: Mapping[str, str]) -> dict[str, str]:
    """All that the child sees of the environment; `base` is the worker's own."""
    environment = {
        key: value
        for key, value in base.items()
        if (key in _ALLOWED or key.startswith(_ALLOWED_PREFIXES)) and not _NEVER.search(key)
    }
    project = str(Path(__file__).resolve().parents[1])
    python_path = [project, *filter(None, base.get("PYTHONPATH", "").split(os.pathsep))]
    return environment | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(python_path)),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # A thread that waits turns this often, some microseconds, and sleeps then. Sleeping at once makes a small model
        # half as slow again; turning for long, as is the default, takes the cores from whoever else works here.
        "GOMP_SPINCOUNT": "100000",
        # Freed memory is kept (glibc): a training step frees and takes the same tensors again, and each page of them
        # that went back to the system meanwhile has to be faulted in and cleared anew.
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        # NVML, and so the order, counts devices by PCI address; CUDA must do so as well.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(str(device.index) for device in order.devices if device.kind == "cuda"),
        RUN_ENV: str(run_dir),
    }


def child_command(run_dir: Path) -> list[str]:
    """The command that carries out RUN_DIR/order.json."""
    return [sys.executable, "-m", "workers.runtimes", str(run_dir)]


class Child:
    """A command under the guard. `output_fd` and `events_fd` are the reading ends of its two pipes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], run_dir: Path) -> None:
        """Starts it. Raises OSError when not even the guard can be started."""
        self._run_dir = run_dir
        self.output_fd, output_end = os.pipe()
        self.events_fd, events_end = os.pipe()
        pid_fd, pid_end = os.pipe()
        own_ends = [output_end, events_end, pid_end]
        try:
            guarded = [sys.executable, "-S", "-E", guard.__file__, "--pid-fd", str(pid_end), "--", *command]
            self._guard = subprocess.Popen(
                guarded,
                stdin=subprocess.PIPE,
                stdout=output_end,
                stderr=output_end,
                pass_fds=[events_end, pid_end],
                env={**environment, EVENTS_FD_ENV: str(events_end)},
                cwd=run_dir,
                start_new_session=True,
            )
        except OSError:
            own_ends += [self.output_fd, self.events_fd, pid_fd]
            raise
        finally:
            for descriptor in own_ends:
                os.close(descriptor)
        self._end_fd = _end_of(self._guard.pid)
        with os.fdopen(pid_fd) as told:
            self.pid = int(told.read() or self._guard.pid)
            """Process id of the command itself, which leads a process group."""

    @property
    def guard_pid(self) -> int:
        return self._guard.pid

    def ended(self, timeout_s: float) -> int | None:
        """Exit status, negative for a signal as in subprocess; None while it runs."""
        if self._end_fd is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._guard.wait(timeout_s)
            return None
        ends = select.poll()  # `wait` would look some twenty times a second
        ends.register(self._end_fd, select.POLLIN)
        ends.poll(timeout_s * 1000)
        return self._guard.poll()

    def ask(self, grace_s: float) -> None:
        """SIGTERM now, SIGKILL after the grace period; asked again, only a shorter one counts. Doesn't wait."""
        if self._guard.stdin:
            with contextlib.suppress(OSError, ValueError):  # it has ended, or was swept up
                os.write(self._guard.stdin.fileno(), f"{grace_s}\n".encode())

    def stop(self, grace_s: float = guard.GRACE_S) -> int:
        """As `ask`, and wait; nothing of the tree is left. Its exit status."""
        self.ask(grace_s)
        status = self.ended(grace_s + _TRUST_S)
        if status is None:
            self._guard.kill()
            status = self._guard.wait()
        self.sweep()
        return status

    def sweep(self) -> None:
        """Let go of the guard and kill what a guard that was killed itself has left."""
        if self._end_fd is not None:
            os.close(self._end_fd)
            self._end_fd = None
        if self._guard.stdin:
            with contextlib.suppress(OSError):
                self._guard.stdin.close()
        kill_run(self._run_dir)


def _end_of(pid: int) -> int | None:
    """A descriptor that can be read once the process has ended; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def signal_name(number: int) -> str:
    """Such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def kill_run(run_dir: Path, timeout_s: float = 3.0) -> int:
    """Kill every process that carries this run directory in its environment; how many there were."""
    killed: set[int] = set()
    until = time.monotonic() + timeout_s
    while (found := _processes_of(run_dir)) and time.monotonic() < until:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
            killed.add(process.pid)
        psutil.wait_procs(found, timeout=0.2)
    return len(killed)


def _processes_of(run_dir: Path) -> list[psutil.Process]:
    marked = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(RUN_ENV) == str(run_dir) and process.status() != psutil.STATUS_ZOMBIE:
                marked.append(process)
    return marked
