"""The disk: how fast it reads the model's own files, and whether runs have room on it.

Deletes nothing. Doesn't know how checkpoints are written.
"""

import shutil

from workers.contract.finetune import FinetuneSpec
from workers.contract.preflight import Line
from workers.disk import Reading, measure, read_files
from workers.runtimes.preflight.case import Case
from workers.runtimes.preflight.lines import GIB, duration, line, rate, size

READ = "disk read"
SPACE = "disk space"
LEAST_BYTES_PER_S = 1e9
"""The guide's rule: models lie on NVMe, which reads at least 1 GB/s."""

LEAST_ROOM = 1 * GIB
"""Below it a run can't be sure to keep its events, its log and its adapter."""

GOOD_ROOM = 10 * GIB
GOOD_CHECKPOINTS = 10

_MEASURABLE = 16 * 1024 * 1024
"""A read of less is all latency."""

_ASSUMED_RANK = 16


def check_read(case: Case) -> Line:
    """The line on reading: the model's files, else a file written into the node's folder unless the case is brief."""
    if case.weights is not None:
        most_s = 0.6 if case.brief else 1.5
        return judge_read(read_files(case.weights.files, most_s=most_s), case.weights.file_bytes)
    if case.brief:
        return line(READ, "ok", "Nothing was measured: the model's files are not on this node, or can't be read.")
    found = measure(case.folder)
    words = f"{rate(found)}, measured on a file written to the node's own folder."
    return _slow(words, found) if found < LEAST_BYTES_PER_S else line(READ, "ok", words, value=found, unit="bytes/s")


def judge_read(read: Reading, model_bytes: int) -> Line:
    """The line for what was read of a model of `model_bytes`."""
    if read.bytes < _MEASURABLE:
        words = f"The model's {size(model_bytes)} were read in {duration(read.seconds)}: too few to judge the disk by."
        return line(READ, "ok", words)
    found = read.bytes_per_s
    words = f"{rate(found)} on {size(read.bytes)} of the model's files; reading all {size(model_bytes)} from disk "
    words += f"takes about {duration(model_bytes / found)}."
    if read.cached:
        words += " This file system can't be read past the page cache, so the disk itself may be slower."
    return _slow(words, found) if found < LEAST_BYTES_PER_S else line(READ, "ok", words, value=found, unit="bytes/s")


def _slow(words: str, found: float) -> Line:
    to_do = f"Keep models on an NVMe disk, which reads at least {rate(LEAST_BYTES_PER_S)}; loading waits for this one."
    return line(READ, "warn", words, to_do, found, "bytes/s")


def check_space(case: Case) -> Line:
    """The line on room for runs and checkpoints, on the disk that holds the run directories."""
    spec = case.order.spec
    rank = spec.lora.rank if isinstance(spec, FinetuneSpec) else _ASSUMED_RANK
    checkpoint = case.weights.lora_checkpoint_bytes(rank) if case.weights else None
    return judge_space(shutil.disk_usage(case.folder).free, checkpoint, rank)


def judge_space(free: int, checkpoint: int | None, rank: int) -> Line:
    """The line for `free` bytes; `checkpoint`: bytes of one of LoRA's of that rank, None when no model is named."""
    words = f"{size(free)} are free where runs are kept"
    if checkpoint:
        room = free // checkpoint
        words += f": room for {room if room < 1000 else 'over 1,000'} LoRA checkpoints of {size(checkpoint)} "
        words += f"(rank {rank} on every linear layer, with AdamW's moments, fp32)"
    free_up = "Free space on this disk, or set LIFTOFF_HOME of the worker to a larger one."
    if free < max(LEAST_ROOM, checkpoint or 0):
        return line(SPACE, "fail", f"{words}; a run needs {size(max(LEAST_ROOM, checkpoint or 0))}.", free_up, free)
    if free < max(GOOD_ROOM, GOOD_CHECKPOINTS * (checkpoint or 0)):
        least = max(GOOD_ROOM, GOOD_CHECKPOINTS * (checkpoint or 0))
        return line(SPACE, "warn", f"{words}; {size(least)} would be comfortable.", free_up, free)
    return line(SPACE, "ok", f"{words}.", value=free)
