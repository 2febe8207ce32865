"""Free memory of each device against what was allocated to the job, and who else holds some of it.

What others hold of a device is missing; of one that is shared, they may be its other runs and aren't named. The need
is the weights alone, which is the least a run takes: the planner knows the rest. Stops nobody.
"""

from pathlib import Path

import psutil

from workers.contract.preflight import Line
from workers.nvml import DeviceSample
from workers.runtimes.preflight.case import Case
from workers.runtimes.preflight.lines import GIB, line, size
from workers.runtimes.preflight.processes import LARGE, Foreign, in_memory, on_devices

NAME = "memory"
OTHERS = "other processes"
HEADROOM = 0.15
"""Share of the free memory that should be left beside the weights: the guide's inference headroom."""

_SHARED = line(OTHERS, "ok", "The device is shared, so other runs may hold some of it.")
_CGROUP = Path("/sys/fs/cgroup")
_MOST_NAMED = 8


def check(case: Case) -> list[Line]:
    """A line for the memory of each device, and one for the processes of others."""
    shared = any(device.reserved_bytes is not None for device in case.order.devices)
    if case.device_kind == "cpu":
        free, total = available_memory()
        others = [] if shared else in_memory()
        memory = judge(f"{NAME} (RAM)", free, total, _need(case, first=True), case.asked_bytes, others)
        if shared:
            return [memory, _SHARED]
        return [memory, judge_others(others, needed_free=memory.state != "ok", device_kind="cpu")]
    if case.nvml is None:
        return [line(NAME, "warn", "The devices' memory can't be read without a driver.", "See driver and CUDA.")]
    samples = {sample.index: sample for sample in case.nvml.sample()}
    lines = []
    for at, device in enumerate(case.order.devices):
        name = f"{NAME} ({device.kind}:{device.index})"
        sample = samples.get(device.index)
        free_total = _free_of(sample) if sample else None
        if free_total is None:
            lines.append(line(name, "warn", "The driver tells nothing of its memory.", "Look at nvidia-smi."))
            continue
        others = [] if shared else on_devices(case.nvml, [device.index])
        # Weights go to the first device; the others wait for what spreads over them.
        lines.append(judge(name, *free_total, _need(case, first=at == 0), case.asked_bytes, others))
    if shared:
        return [*lines, _SHARED]
    needed_free = any(entry.state != "ok" for entry in lines)
    everyone = on_devices(case.nvml, [device.index for device in case.order.devices if device.index in samples])
    return [*lines, judge_others(everyone, needed_free=needed_free, device_kind="cuda")]


def judge(name: str, free: int, total: int, weights: int | None, asked: int, others: list[Foreign]) -> Line:
    """The line of one device's memory, in bytes. `weights`: what they take of it; `asked`: by the job's resources."""
    has = f"{size(free)} of {size(total)} are free"
    need = max(weights or 0, asked)
    whose = "the weights alone take" if (weights or 0) >= asked else "the job asks for"
    stop = f"Stop {_listed(others[:3])}, or " if others else ""
    if free < need:
        by_weights = (weights or 0) >= asked
        smaller = "use a smaller precision, int8 or nf4, or a larger device." if by_weights else "ask for less memory."
        to_do = f"{stop}{smaller}" if stop else smaller[:1].upper() + smaller[1:]
        return line(name, "fail", f"{has}; {whose} {size(need)}.", to_do, free)
    if weights and weights > free * (1 - HEADROOM):
        to_do = f"{stop}use int8 or nf4, or a shorter context." if stop else "Use int8 or nf4, or a shorter context."
        words = f"{has}; the weights alone take {size(weights)}, which leaves less than {HEADROOM:.0%} for answers."
        return line(name, "warn", words, to_do, free)
    if free < 0.1 * total or free < GIB / 2:
        to_do = f"Stop {_listed(others[:3])}." if others else "Find out what holds the rest."
        return line(name, "warn", f"Only {has}.", to_do, free)
    needs = f"; {whose} {size(need)}" if need else ""
    return line(name, "ok", f"{has}{needs}.", value=free)


def judge_others(others: list[Foreign], *, needed_free: bool, device_kind: str) -> Line:
    """The line that names them. On a GPU, which a job has to itself, a large one is a warning in any case."""
    held = sum(foreign.bytes or 0 for foreign in others)
    if not others:
        least = f" at least {size(LARGE)} of RAM" if device_kind == "cpu" else " memory of these devices"
        return line(OTHERS, "ok", f"No other process holds{least}.", value=0)
    large = [foreign for foreign in others if foreign.bytes is None or foreign.bytes >= LARGE]
    words = f"They hold memory: {_listed(others[:_MOST_NAMED])}"
    words += f" and {len(others) - _MOST_NAMED} more." if len(others) > _MOST_NAMED else "."
    if needed_free or (large and device_kind == "cuda"):
        ids = " ".join(str(foreign.pid) for foreign in (large or others)[:_MOST_NAMED])
        return line(OTHERS, "warn", words, f"If they are left over, stop them on the node: kill {ids}", held)
    return line(OTHERS, "ok", words, value=held)


def available_memory() -> tuple[int, int]:
    """(available, total) bytes of RAM, or of the container's share of it (cgroup v2; its page cache can be freed)."""
    memory = psutil.virtual_memory()
    free, total = int(memory.available), int(memory.total)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stats = dict(entry.split() for entry in (_CGROUP / "memory.stat").read_text().splitlines())
        used -= int(stats.get("inactive_file", 0))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return free, total
    return min(free, max(limit - used, 0)), min(total, limit)


def _need(case: Case, *, first: bool) -> int | None:
    return case.weights_bytes if first else None


def _free_of(sample: DeviceSample) -> tuple[int, int] | None:
    if sample.memory_bytes is None or not sample.memory_total_bytes:
        return None  # a GPU that shares the machine's memory
    return sample.memory_total_bytes - sample.memory_bytes, sample.memory_total_bytes


def _listed(others: list[Foreign]) -> str:
    return ", ".join(str(foreign) for foreign in others)
