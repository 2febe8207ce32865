"""What a run takes and how fast it goes: the worker's half of the planner's calibration.

Counts from `begin` on, so that loading isn't in it. Knows nothing of what was planned, nor of who reads the figures.
"""

import ctypes
import gc
import re
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch

from workers.contract.measured import Measured
from workers.contract.order import Device

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
LATEST = 10_000
"""Steps, or answers, that a median is of at most."""


class Meter:
    """Made before the model is loaded, begun before the work; one `step` for each step, and `measured` at its end."""

    def __init__(self, devices: Sequence[Device], clock: Callable[[], float] = time.monotonic) -> None:
        """`devices`: the order's; a run without any is on the CPU."""
        self._device = devices[0] if devices else Device(kind="cpu", index=0)
        self._cuda = self._device.kind == "cuda"
        self._clock = clock
        if not self._cuda:
            forget_peak()
        self._baseline = 0 if self._cuda else resident_bytes()
        self._longest = 0
        self._pending = 0
        self._since: float | None = None
        self._first = True
        self._seconds: deque[float] = deque(maxlen=LATEST)
        self._tokens: deque[float] = deque(maxlen=LATEST)

    def begin(self) -> None:
        """Forget the peak so far, and what loading left behind."""
        if self._cuda:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()
        self._since = self._clock()

    def saw(self, tokens: int, sequences: int) -> None:
        """A forward pass over `tokens`, padding included, in `sequences` of equal length."""
        self._longest = max(self._longest, -(-tokens // sequences))
        self._pending += tokens

    def step(self) -> None:
        """A step is over. The first one isn't timed: it warms up what the others find warm."""
        now = self._clock()
        if self._since is not None and not self._first:
            self._seconds.append(now - self._since)
            self._tokens.append(self._pending)
        self._since, self._pending, self._first = now, 0, False

    def aside(self, seconds: float) -> None:
        """So much of the time since the last step was no part of the next one."""
        if self._since is not None:
            self._since += seconds

    def answered(self, tokens: int, seconds_per_token: float | None) -> None:
        """An answer is over: `tokens` of prompt and answer together; None where it was too short to time."""
        self._longest = max(self._longest, tokens)
        if seconds_per_token is not None:
            self._seconds.append(seconds_per_token)
            self._tokens.append(1)

    def measured(self) -> Measured | None:
        """None before any token was seen."""
        if not self._longest:
            return None
        step_s = median(self._seconds) if self._seconds else None
        return Measured(
            device=self._device.name,
            basis="cuda_reserved" if self._cuda else "rss",
            peak_bytes=torch.cuda.max_memory_reserved() if self._cuda else peak_resident_bytes(),
            allocated_bytes=torch.cuda.max_memory_allocated() if self._cuda else None,
            baseline_bytes=self._baseline,
            sequence_tokens=self._longest,
            step_tokens=median(self._tokens) if self._tokens else None,
            step_s=step_s or None,
            tokens_per_s=sum(self._tokens) / sum(self._seconds) if step_s else None,
            steps=len(self._seconds),
        )


def resident_bytes() -> int:
    """RAM that this process holds now; its highest so far where the system doesn't say."""
    return _status("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Most RAM that this process held since `forget_peak`, or since its start where the system can't forget."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM") or used * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Give freed memory back and start VmHWM anew (Linux: proc_pid_clear_refs(5), "reset the peak")."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        CLEAR.write_text("5")


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status; 0 where there is none."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
