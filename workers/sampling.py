"""What a run uses, as metrics: CPU and memory of its process tree, and its GPUs' load, memory and power.

Doesn't know what the processes do.
"""

import contextlib
import time

import psutil

from workers.contract.events import Metric
from workers.contract.order import Device
from workers.nvml import Nvml

SAMPLE_INTERVAL_S = 2.0


class Sampler:
    """Samples the tree below one process; utilisation is that since the last sample."""

    def __init__(self, guard_pid: int, devices: tuple[Device, ...], nvml: Nvml | None) -> None:
        """`guard_pid`: the root, itself not counted. `nvml` None: no device is sampled."""
        self._guard_pid = guard_pid
        self._devices = {device.index for device in devices if device.kind == "cuda"}
        self._nvml = nvml if self._devices else None
        self._cpu_s: dict[tuple[int, float], float] = {}
        self._at = time.monotonic()

    def sample(self) -> Metric:
        """cpu_percent (100 is one core), rss_bytes (memory shared by processes counts in each), device<i>_*."""
        values = self._processes()
        for device in self._nvml.sample() if self._nvml else ():
            if device.index in self._devices:
                figures = {
                    "util_percent": device.util_percent,
                    "memory_bytes": device.memory_bytes,
                    "power_w": device.power_w,
                }
                values |= {f"device{device.index}_{key}": float(it) for key, it in figures.items() if it is not None}
        return Metric(step=None, values=values)

    def _processes(self) -> dict[str, float]:
        cpu_s: dict[tuple[int, float], float] = {}
        rss = 0
        for process in _below(self._guard_pid):
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                rss += process.memory_info().rss
                cpu_s[process.pid, process.create_time()] = times.user + times.system
        now = time.monotonic()
        spent = sum(max(seconds - self._cpu_s.get(key, 0.0), 0.0) for key, seconds in cpu_s.items())
        percent = 100 * spent / max(now - self._at, 1e-3)
        self._cpu_s, self._at = cpu_s, now
        return {"cpu_percent": round(percent, 1), "rss_bytes": float(rss)}


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
