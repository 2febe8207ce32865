"""Processes that are not this run's: who holds how much memory, by name. Judges nothing."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

import psutil

from workers.nvml import Nvml
from workers.runtimes.preflight.lines import GIB, size

LARGE = 1 * GIB
"""A process that holds less than this is not named on a CPU node, and no trouble on a GPU."""


@dataclass(frozen=True)
class Foreign:
    """A process of somebody else. `bytes` None where the driver doesn't tell."""

    pid: int
    name: str
    user: str
    bytes: int | None

    def __str__(self) -> str:
        held = "an unknown amount" if self.bytes is None else size(self.bytes)
        whose = f", user {self.user}" if self.user else ""
        return f"{self.name or 'a process this node cannot see'} (pid {self.pid}{whose}) {held}"


def on_devices(nvml: Nvml, indices: Iterable[int]) -> list[Foreign]:
    """Who holds memory of these GPUs, in all, largest first; this run's processes left out."""
    ours = own_pids()
    found: dict[int, Foreign] = {}
    for holder in (holder for index in indices for holder in nvml.holders(index)):
        if holder.pid in ours:
            continue
        if known := found.get(holder.pid):
            found[holder.pid] = replace(known, bytes=(known.bytes or 0) + (holder.bytes or 0) or None)
        else:
            name, user = _describe(holder.pid)
            found[holder.pid] = Foreign(holder.pid, name or holder.name, user, holder.bytes)
    return sorted(found.values(), key=lambda foreign: -(foreign.bytes or 0))


def in_memory(least_bytes: int = LARGE) -> list[Foreign]:
    """Who holds at least `least_bytes` of the machine's memory (resident, shared pages counted in each)."""
    ours = own_pids()
    found = []
    for process in psutil.process_iter(["pid", "name", "username", "memory_info"]):
        memory = process.info["memory_info"]
        if memory is None or memory.rss < least_bytes or process.pid in ours:
            continue
        found.append(Foreign(process.pid, process.info["name"] or "", process.info["username"] or "", memory.rss))
    return sorted(found, key=lambda foreign: -(foreign.bytes or 0))


def own_pids() -> set[int]:
    """This process, its descendants, and the worker above it (but not the system's first process)."""
    ours = {os.getpid()}
    with contextlib.suppress(psutil.Error):
        this = psutil.Process()
        ours |= {process.pid for process in (*this.children(recursive=True), *this.parents())}
    return ours - {1}


def _describe(pid: int) -> tuple[str, str]:
    """(name, user); empty where the process is another container's."""
    try:
        process = psutil.Process(pid)
        return process.name(), process.username()
    except (psutil.Error, KeyError):
        return "", ""
