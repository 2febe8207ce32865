"""An all-reduce sweep as a job: 1, 2, 4 … to n processes of this node, each size of message, and a training step.

Starts the processes; the runtime's own never joins. Judges nothing.
"""

import os
import time

from workers.contract.reasons import Reason
from workers.contract.spec import PreflightSpec
from workers.contract.sweep import RESULT, Step, Sum, Sweep
from workers.runtimes.base import Run, RunFailed, invalid
from workers.runtimes.preflight import collective

PHASE = "all-reduce sweep"
SIZES = tuple(1024 * 2**power for power in range(17))
"""1 KiB to 64 MiB."""


def sweep(run: Run, spec: PreflightSpec) -> None:
    """Measure, and say the result. Raises RunFailed when the processes can't join, or there is only one to join."""
    run.phase(PHASE)
    cuda = run.device_kind == "cuda"
    most = len(run.order.devices) if cuda else os.cpu_count() or 1
    processes = min(spec.sweep_processes, most)
    if processes < 2:
        raise invalid("sweep_processes: one device, or a CPU of one core, has nobody to join; use a node with more.")
    if processes < spec.sweep_processes:
        run.say(f"There are {most} {'devices' if cuda else 'cores'}, so the sweep goes to {processes} processes.")
    at, start = time.time(), time.monotonic()
    sums: list[Sum] = []
    steps: list[Step] = []
    counts = doublings(processes)
    for done, ranks in enumerate(counts):
        run.progress(done, len(counts), "sweeps")
        try:
            said = collective.between("nccl" if cuda else "gloo", ranks, run.run_dir, SIZES, steps=True)
        except collective.NotJoined as error:
            line = collective.failed(error)
            raise RunFailed(Reason.PREFLIGHT_FAILED, f"{line.words} {line.to_do}") from error
        sums += [Sum(ranks=ranks, bytes=one.bytes, seconds=one.seconds) for one in said.measured]
        if said.step_s:
            steps.append(Step(ranks=ranks, seconds=said.step_s))
    run.progress(len(counts), len(counts), "sweeps")
    found = Sweep(
        at=at,
        took_s=round(time.monotonic() - start, 3),
        backend="nccl" if cuda else "gloo",
        between=f"up to {processes} GPUs" if cuda else f"up to {processes} processes of one thread, over the loopback",
        step=said.step_words,
        sums=tuple(sums),
        steps=tuple(steps),
    )
    fastest = found.fastest
    run.say(f"Fastest: {fastest.bus_bytes_per_s / 1e9:.2f} GB/s at {fastest.bytes} bytes, {fastest.ranks} processes.")
    run.result(RESULT, found.model_dump(mode="json"))


def doublings(most: int) -> list[int]:
    """1, 2, 4 … and `most` itself."""
    counts = [1]
    while counts[-1] * 2 <= most:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == most else [*counts, most]
