"""Bring a local model's weights into the page cache, whence every engine maps them: files in a row, which a disk likes
best, with the pace told.

Knows nothing of engines.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from workers.disk import Reading
from workers.runtimes.base import Pace, Run
from workers.runtimes.preflight.lines import rate
from workers.runtimes.preflight.weights import read_weights

READ_BYTES = 16 * 2**20
TELL_EVERY_S = 0.5
MIB = 2**20


def read_ahead(run: Run) -> Reading | None:
    """What was read. None for a hub's model, for files that can't be read, of which the loader says more, and for those
    that would fill the memory."""
    if run.model.format == "hub":
        return None
    try:
        weights = read_weights(run.model)
    except (OSError, ValueError, KeyError):
        return None
    if weights is None or weights.file_bytes > psutil.virtual_memory().available / 2:
        return None
    began, told, done, total = time.monotonic(), 0.0, 0, weights.file_bytes
    pace = Pace()
    for size in _read(weights.files):
        done += size
        now = time.monotonic()
        if now - told >= TELL_EVERY_S or done == total:
            told = now
            unit = f"MiB at {rate(done / max(now - began, 1e-9))}"
            run.progress(round(done / MIB, 1), round(total / MIB, 1), unit, pace.eta_s(done, total))
    return Reading(done, time.monotonic() - began, cached=True)


def _read(files: tuple[Path, ...]) -> Iterator[int]:
    """Bytes of each piece."""
    buffer = bytearray(READ_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                yield size
