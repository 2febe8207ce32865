"""How fast a disk reads: measured on a small file, remembered for a day.

Doesn't know what is read from the disk later.
"""

import contextlib
import json
import mmap
import os
import time
from pathlib import Path

SAMPLE_BYTES = 64 * 1024 * 1024
_BLOCK = 4 * 1024 * 1024
_REMEMBERED_S = 24 * 3600.0
_MEMORY_FILE = "disk_read.json"


def read_bandwidth(folder: Path) -> float | None:
    """Bytes per second of a sequential read below `folder`, past the page cache; None when it can't be measured.

    The figure is kept in the folder and measured again after a day.
    """
    memory = folder / _MEMORY_FILE
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(memory.read_text())
        if 0 <= time.time() - kept["at"] < _REMEMBERED_S:
            return float(kept["bytes_per_s"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        bytes_per_s = _measure(folder / f".disk_read.{os.getpid()}")
        memory.write_text(json.dumps({"at": time.time(), "bytes_per_s": bytes_per_s}))
    except OSError:
        return None
    return bytes_per_s


def _measure(path: Path) -> float:
    try:
        block = os.urandom(_BLOCK)
        with path.open("wb") as file:
            for _ in range(SAMPLE_BYTES // _BLOCK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        try:
            return _timed_read(path, getattr(os, "O_DIRECT", 0))
        except OSError:  # a file system without O_DIRECT, e.g. tmpfs
            return _timed_read(path, 0)
    finally:
        path.unlink(missing_ok=True)


def _timed_read(path: Path, flags: int) -> float:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(-1, _BLOCK) as aligned:  # O_DIRECT wants whole pages
            start, done = time.perf_counter(), 0
            while count := os.readv(descriptor, [aligned]):
                done += count
            return done / max(time.perf_counter() - start, 1e-9)
    finally:
        os.close(descriptor)
