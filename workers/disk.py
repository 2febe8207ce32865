"""How fast a disk reads: measured on a small file and remembered for a day, or on files that are there.

Doesn't know what is read from the disk later.
"""

import contextlib
import json
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SAMPLE_BYTES = 64 * 1024 * 1024
_BLOCK = 4 * 1024 * 1024
_REMEMBERED_S = 24 * 3600.0
_MEMORY_FILE = "disk_read.json"


class Reading(NamedTuple):
    """What was read in how many seconds. `cached`: memory may have answered instead of the disk."""

    bytes: int
    seconds: float
    cached: bool = False

    @property
    def bytes_per_s(self) -> float:
        return self.bytes / max(self.seconds, 1e-9)


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
        bytes_per_s = measure(folder)
        memory.write_text(json.dumps({"at": time.time(), "bytes_per_s": bytes_per_s}))
    except OSError:
        return None
    return bytes_per_s


def read_files(files: Sequence[Path], *, most_bytes: int = 256 * 1024 * 1024, most_s: float = 1.0) -> Reading:
    """Read the files one after the other until a bound is reached. Raises OSError when one can't be read.

    Goes past the page cache without emptying it, so that what is cached stays so for whoever loads the files next;
    only where the file system can't (tmpfs, some network mounts) are the pages read dropped from the cache first.
    """
    done, seconds, cached = 0, 0.0, False
    for path in files:
        if done >= most_bytes or seconds >= most_s:
            break
        left = (most_bytes - done, most_s - seconds)
        try:
            read = _timed_read(path, getattr(os, "O_DIRECT", 0), *left)
        except OSError:
            _drop_pages(path)
            read, cached = _timed_read(path, 0, *left), True
        done, seconds = done + read.bytes, seconds + read.seconds
    return Reading(done, seconds, cached)


def measure(folder: Path) -> float:
    """Bytes per second of a sequential read below `folder`, on a file written for it. Raises OSError."""
    path = folder / f".disk_read.{os.getpid()}"
    try:
        block = os.urandom(_BLOCK)
        with path.open("wb") as file:
            for _ in range(SAMPLE_BYTES // _BLOCK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        _drop_pages(path)
        return read_files([path]).bytes_per_s
    finally:
        path.unlink(missing_ok=True)


def _drop_pages(path: Path) -> None:
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _timed_read(path: Path, flags: int, most_bytes: int, most_s: float) -> Reading:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        with mmap.mmap(-1, _BLOCK) as aligned:  # O_DIRECT wants whole pages
            start, done, seconds = time.perf_counter(), 0, 0.0
            while done < most_bytes and seconds < most_s:
                count = os.readv(descriptor, [aligned])
                done += count
                seconds = time.perf_counter() - start
                if count < _BLOCK:  # the end; another read would start between pages
                    break
            return Reading(done, seconds)
    finally:
        os.close(descriptor)
