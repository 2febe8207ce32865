"""Which processes hold how much of this node's devices, and for which run they were started.

GPUs by their driver. A CPU's memory is everybody's, so there only the processes of runs are told. Judges nothing.
"""

import contextlib
from pathlib import Path, PurePath

import psutil

from workers.child import RUN_ENV
from workers.contract.events import DeviceProcess, DeviceUse, RunningAttempt
from workers.nvml import Nvml
from workers.spool import identity_of

MOST_TOLD = 32
"""Processes of one device."""


def occupants(runs_dir: Path, nvml: Nvml | None) -> tuple[DeviceUse, ...]:
    """Every device with those who hold memory of it. `runs_dir`: where this worker's runs are."""
    runs_dir = runs_dir.resolve()
    if nvml is not None and (samples := nvml.sample()):
        return tuple(
            DeviceUse(
                kind="cuda",
                index=sample.index,
                memory_bytes=sample.memory_bytes,
                processes=tuple(
                    _process(holder.pid, holder.name, holder.bytes, runs_dir)
                    for holder in nvml.holders(sample.index)[:MOST_TOLD]
                ),
            )
            for sample in samples
        )
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (run := _run_of(process, runs_dir)) and process.status() != psutil.STATUS_ZOMBIE:
                held = process.memory_info().rss
                found.append(DeviceProcess(pid=process.pid, name=_name_of(process), bytes=held, run=run))
    found.sort(key=lambda one: -(one.bytes or 0))
    return (DeviceUse(kind="cpu", index=0, processes=tuple(found[:MOST_TOLD])),)


def _process(pid: int, name: str, held: int | None, runs_dir: Path) -> DeviceProcess:
    """`name`: the driver's, for one of another container."""
    run = None
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        name = _name_of(process) or name
        run = _run_of(process, runs_dir)
    return DeviceProcess(pid=pid, name=name, bytes=held, run=run)


def _run_of(process: psutil.Process, runs_dir: Path) -> RunningAttempt | None:
    run_dir = Path(process.environ().get(RUN_ENV) or "/")
    identity = identity_of(run_dir) if run_dir.parent == runs_dir else None
    return RunningAttempt(job=identity[0], attempt=identity[1], token=identity[2]) if identity else None


def _name_of(process: psutil.Process) -> str:
    """'python train.py': the program and its first argument that is no option. More of them may be secret."""
    program, *arguments = process.cmdline() or [process.name()]
    script = next((argument for argument in arguments if not argument.startswith("-")), "")
    return " ".join(filter(None, (PurePath(program).name, PurePath(script).name)))[:120]
