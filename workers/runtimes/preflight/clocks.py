"""Clocks: whether heat, power or a setting slows the devices now. Changes no clock."""

import contextlib
import time
from pathlib import Path

import psutil

from workers.contract.preflight import Line
from workers.nvml import Clocks
from workers.runtimes.preflight.case import Case
from workers.runtimes.preflight.lines import line

NAME = "clocks"
LEAST_SHARE = 0.6
"""A busy core below this share of its greatest clock is slowed."""

_CPU = Path("/sys/devices/system/cpu")
_BUSY_S = 0.1


def check(case: Case) -> Line:
    """The line for the job's devices."""
    if case.device_kind == "cpu":
        return judge_cpu(*busy_core())
    if case.nvml is None:
        return line(NAME, "warn", "The devices' clocks can't be read without a driver.", "See driver and CUDA.")
    return judge_gpus({device.index: case.nvml.clocks(device.index) for device in case.order.devices})


def judge_gpus(clocks: dict[int, Clocks]) -> Line:
    """The line for the clocks of each device, by index."""
    slowed = {index: found.slowed_by for index, found in clocks.items() if found.slowed_by}
    now = ", ".join(f"cuda:{index} {_mhz(found)}" for index, found in clocks.items())
    if slowed:
        why = "; ".join(f"cuda:{index} is slowed by {', '.join(reasons)}" for index, reasons in slowed.items())
        to_do = "Look at cooling, power cables and nvidia-smi -q -d PERFORMANCE; raise the limit with nvidia-smi -pl."
        return line(NAME, "warn", f"{why[:1].upper()}{why[1:]}. Now {now}.", to_do)
    if all(found.slowed_by is None for found in clocks.values()):
        return line(NAME, "ok", f"The driver doesn't say whether anything slows the devices. Now {now}.")
    return line(NAME, "ok", f"Neither heat nor power slows the devices. Now {now}; idle devices clock down.")


def judge_cpu(now_mhz: float | None, max_mhz: float | None, governor: str) -> Line:
    """The line for a busy core's clock against its greatest."""
    if now_mhz is None:
        return line(NAME, "ok", "The system doesn't tell the CPU's clock.")
    if not max_mhz:
        words = f"A busy core runs at {now_mhz:.0f} MHz; the system doesn't tell its maximum, as is usual in a VM."
        return line(NAME, "ok", words)
    share = now_mhz / max_mhz
    words = f"A busy core runs at {now_mhz:.0f} of at most {max_mhz:.0f} MHz ({share:.0%})"
    words += f", governor {governor}." if governor else "."
    if share < LEAST_SHARE:
        to_do = "Look at cooling and the power profile; cpupower frequency-set -g performance lets it run free."
        return line(NAME, "warn", words, to_do, share, "share")
    return line(NAME, "ok", words, value=share, unit="share")


def busy_core() -> tuple[float | None, float | None, str]:
    """(MHz now, greatest MHz, governor) of the fastest core after keeping one busy for a moment; None: not told."""
    until, turns = time.perf_counter() + _BUSY_S, 0
    while time.perf_counter() < until:
        turns += 1
    cores = psutil.cpu_freq(percpu=True) if hasattr(psutil, "cpu_freq") else []
    governor = ""
    with contextlib.suppress(OSError):
        governor = (_CPU / "cpu0/cpufreq/scaling_governor").read_text().strip()
    if not cores:
        return None, None, governor
    return max(core.current for core in cores), max(core.max for core in cores) or None, governor


def _mhz(clocks: Clocks) -> str:
    if clocks.now_mhz is None:
        return "does not tell its clock"
    return f"{clocks.now_mhz} MHz" + (f" of {clocks.max_mhz}" if clocks.max_mhz else "")
