"""A small all-reduce between a job's devices: whether they reach each other, correctly, and how fast.

A job runs on one node, so no all-reduce leaves it. Starts one process a device; the runtime's own never joins.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from workers.contract.preflight import Line
from workers.runtimes.preflight.case import Case
from workers.runtimes.preflight.lines import line, rate, size

NAME = "all-reduce"
LIMIT_S = 120.0
"""Processes that haven't met and measured by then never will."""

LEAST_BYTES_PER_S = {"nvlink": 20e9, "pcie": 3e9, "host": 1e9, "cpu": 0.1e9}
"""Bus bandwidth at 64 MiB below which the link is not what it should be: well under half of the slowest of its kind."""

SIZES = (64 * 1024, 1024 * 1024, 16 * 1024 * 1024, 64 * 1024 * 1024)

_RENDEZVOUS = "preflight.rendezvous"


class NotJoined(Exception):
    """The processes didn't do their all-reduce; the message says what they said."""


@dataclass(frozen=True)
class Measured:
    """One size: bytes summed over `ranks` processes in `seconds`."""

    bytes: int
    seconds: float
    ranks: int

    @property
    def bus_bytes_per_s(self) -> float:
        """2(n-1)/n x bytes / s, what each link carries (NCCL-tests, doc/PERFORMANCE.md)."""
        return 2 * (self.ranks - 1) / self.ranks * self.bytes / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Said:
    """All that the processes measured; the step only where it was asked for."""

    measured: list[Measured]
    step_s: float | None
    step_words: str


def check(case: Case) -> Line:
    """The line. One GPU has nobody to join; on the CPU two processes show that gloo, which DeepSpeed uses, works."""
    devices = case.order.devices
    if case.device_kind == "cpu":
        if case.brief:
            return line(NAME, "ok", "One device, so there is nothing to join.")
        measured = all_reduce("gloo", 2, case.folder)
        return judge(measured, "cpu", "two processes on this CPU (gloo, loopback)")
    if len(devices) < 2:
        return line(NAME, "ok", "One device, so there is nothing to join.")
    kinds = _links(case)
    link = next((kind for kind in ("host", "pcie", "nvlink") if kind in kinds), "pcie")
    measured = all_reduce("nccl", len(devices), case.folder)
    return judge(measured, link, f"{len(devices)} devices (NCCL, {link} at its slowest)")


def judge(measured: list[Measured], link: str, between: str) -> Line:
    """The line for what was measured over links of that kind; the largest size is judged."""
    largest = measured[-1]
    bus = largest.bus_bytes_per_s
    sizes = ", ".join(f"{size(one.bytes)} {rate(one.bus_bytes_per_s)}" for one in measured)
    words = f"Between {between}, bus bandwidth by size: {sizes}."
    if bus < LEAST_BYTES_PER_S[link]:
        to_do = "Other work may load the machine; run it again."
        if link != "cpu":
            to_do = "Look at nvidia-smi topo -m and NCCL_P2P_DISABLE, and at NCCL's choices with NCCL_DEBUG=INFO."
        words += f" That is below the {rate(LEAST_BYTES_PER_S[link])} to expect."
        return line(NAME, "warn", words, to_do, bus, "bytes/s")
    return line(NAME, "ok", words, value=bus, unit="bytes/s")


def all_reduce(backend: str, ranks: int, folder: Path, limit_s: float = LIMIT_S) -> list[Measured]:
    """Measure between `ranks` new processes, smallest size first. Raises NotJoined."""
    return between(backend, ranks, folder, SIZES, steps=False, limit_s=limit_s).measured


def between(
    backend: str, ranks: int, folder: Path, sizes: tuple[int, ...], *, steps: bool, limit_s: float = LIMIT_S
) -> Said:
    """As `all_reduce`, of other sizes, and of a training step too. One process has only the step. Raises NotJoined."""
    rendezvous = folder / _RENDEZVOUS
    rendezvous.unlink(missing_ok=True)
    command = [sys.executable, "-m", "workers.runtimes.preflight.rank", backend, str(ranks), str(rendezvous)]
    what = [",".join(map(str, sizes)), str(int(steps))]
    # Standard error goes to the job's log.
    processes = [
        subprocess.Popen([*command, str(rank), *what], stdout=subprocess.PIPE, env=os.environ.copy(), text=True)
        for rank in range(ranks)
    ]
    try:
        return _collect(processes, ranks, time.monotonic() + limit_s, limit_s)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        rendezvous.unlink(missing_ok=True)


def _collect(processes: list[subprocess.Popen[str]], ranks: int, until: float, limit_s: float) -> Said:
    """What rank 0 says, once all have ended well. A rank that fails leaves the others waiting, so it is seen first."""
    while any(process.poll() is None for process in processes):
        failed = [rank for rank, process in enumerate(processes) if process.poll()]
        if failed:
            raise NotJoined(f"rank {failed[0]} ended with status {processes[failed[0]].returncode}")
        if time.monotonic() > until:
            waiting = [rank for rank, process in enumerate(processes) if process.poll() is None]
            raise NotJoined(f"rank {', '.join(map(str, waiting))} had not ended after {limit_s:.0f} s")
        time.sleep(0.05)
    failed = [rank for rank, process in enumerate(processes) if process.returncode]
    if failed or processes[0].stdout is None:
        raise NotJoined(f"rank {failed[0]} ended with status {processes[failed[0]].returncode}")
    said = json.loads(processes[0].stdout.read().splitlines()[-1])
    if not said["correct"]:
        raise NotJoined("the sum is wrong, so a device or a link between them computes or carries wrongly")
    measured = [Measured(bytes_, seconds, ranks) for bytes_, seconds in said["measured"]]
    return Said(measured, said["step_s"], said["step_words"])


def failed(error: NotJoined) -> Line:
    """The line when the processes didn't join."""
    to_do = "The job's log has what each process said; on GPUs look at nvidia-smi topo -m and set NCCL_DEBUG=INFO."
    return line(NAME, "fail", f"The devices could not do an all-reduce: {error}.", to_do)


def _links(case: Case) -> set[str]:
    indices = {device.index for device in case.order.devices}
    links = case.nvml.links() if case.nvml else ()
    return {link.kind for link in links if {link.a, link.b} <= indices}
