"""Keeps a node's disk within limits: run directories that ended and were delivered, copies of what lies afar.

Never a run that goes on or has events to deliver, never a copy that such a run reads. Doesn't know why disks are full.
"""

import contextlib
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from pydantic import ValidationError

from workers.afar import NoRoom
from workers.contract.events import Envelope, Finished
from workers.contract.keeping import DAY_S, Doomed, Limit, Thing, limit_from, select
from workers.contract.names import ORDER_FILE, SHIPPED_FILE, SPOOL_FILE
from workers.contract.reasons import Reason
from workers.copies import no_room
from workers.settings import SettingsError
from workers.spool import run_dir_name

log = logging.getLogger(__name__)

INTERVAL_S = 3600.0
_TRASH = ".trash"
"""Things on their way out: what was half removed is never mistaken for a run or a copy."""
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class Keep:
    """What a node keeps."""

    runs: Limit
    cache: Limit


def keep_from(environment: Mapping[str, str]) -> Keep:
    """Read LIFTOFF_KEEP_RUNS_* and LIFTOFF_KEEP_CACHE_*. Raises SettingsError."""
    try:
        return Keep(
            runs=limit_from(environment, "RUNS", days=30, size=100, unit="GIB"),
            cache=limit_from(environment, "CACHE", days=30, size=500, unit="GIB"),
        )
    except ValueError as error:
        raise SettingsError(str(error)) from None


class Keeper:
    """A thread that sweeps at once and then every hour, until `stop`."""

    def __init__(self, runs_dir: Path, cache_dir: Path, keep: Keep) -> None:
        self._folders = (runs_dir, cache_dir)
        self._keep = keep
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Doesn't wait for a sweep under way: what it leaves half removed, the next start removes."""
        self._stopped.set()

    def make_room(self, wanted: int) -> None:
        """For a copy of so many bytes. Raises NoRoom."""
        make_room(*self._folders, self._keep.cache, wanted, time.time())

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                sweep(*self._folders, self._keep, time.time())
            except Exception:  # a disk's trouble must not end the sweeps to come
                log.exception("What is beyond the limits could not be removed.")
            self._stopped.wait(INTERVAL_S)


def sweep(runs_dir: Path, cache_dir: Path, keep: Keep, now: float) -> list[Doomed[Path]]:
    """Remove what is beyond the limits, oldest first; what it was. `cache_dir` is the artifact store's own."""
    for folder in (runs_dir, cache_dir):
        _empty_trash(folder)
    runs = list(_runs(runs_dir))
    gone = [item for item in select((run.thing for run in runs), keep.runs, now) if _remove(item)]
    copies = _copies(cache_dir, [run for run in runs if run.thing.held])
    # A day is longer than the inputs of a run take to fetch; after that its order says where they lie.
    unused = select(copies, keep.cache, now, young_s=DAY_S)
    return gone + [item for item in unused if _still_unused(item) and _remove(item)]


def make_room(runs_dir: Path, cache_dir: Path, limit: Limit, wanted: int, now: float) -> None:
    """Remove copies that no run reads, oldest first, until so many bytes more are within disk and limit.

    Raises NoRoom, and then only what had to go in vain is gone.
    """
    free = shutil.disk_usage(cache_dir).free
    held = sum(map(_size, _folders(cache_dir)))
    over = max(wanted - free, held + wanted - limit.size if limit.size else 0)
    if over > 0:
        _empty_trash(cache_dir)
        copies = list(_copies(cache_dir, [run for run in _runs(runs_dir) if run.thing.held]))
        unused = select(copies, Limit(size=max(held - over, 1)), now)
        gone = sum(item.thing.size for item in unused if _still_unused(item) and _remove(item))
        free, held = free + gone, held - gone
    if limit.size and held + wanted > limit.size:
        raise NoRoom(
            f"A copy of {wanted / 2**30:.1f} GiB has no room: the node keeps at most {limit.size / 2**30:g} GiB of "
            f"copies (LIFTOFF_KEEP_CACHE_GIB), and {held / 2**30:.1f} GiB are in use or were within the hour."
        )
    if wanted > free:
        raise no_room(wanted, free, cache_dir)


class _Run(NamedTuple):
    thing: Thing[Path]
    order: str
    """ORDER_FILE's text, of a run that isn't over."""


def _runs(runs_dir: Path) -> Iterator[_Run]:
    """Every run directory of this node."""
    for path in sorted(runs_dir.glob("*-*")):
        if not path.is_dir() or path.is_symlink():
            continue
        end = _end_of(path)
        order = ""
        if end is None:
            with contextlib.suppress(OSError):
                order = (path / ORDER_FILE).read_text(errors="replace")
        held = "" if end is not None else "it goes on, or has events to deliver"
        yield _Run(Thing(path, end or 0.0, _size(path), held), order)


def _end_of(run_dir: Path) -> float | None:
    """Unix seconds when a run ended of which nothing is left to deliver; None of any other, and of other folders."""
    try:
        with (run_dir / SPOOL_FILE).open("rb") as spool:
            size = spool.seek(0, os.SEEK_END)
            last = _last_line(spool, size)
        envelope = Envelope.model_validate_json(last)
    except (OSError, ValidationError):
        return None
    if run_dir_name(envelope.job, envelope.attempt, envelope.token) != run_dir.name:
        return None
    if not isinstance(envelope.event, Finished):
        return None
    try:
        shipped = int((run_dir / SHIPPED_FILE).read_text())
    except (OSError, ValueError):
        shipped = 0
    # One whose lease went to another is never delivered.
    return envelope.at if shipped >= size or envelope.event.reason is Reason.NODE_LOST else None


def _last_line(spool: IO[bytes], size: int) -> bytes:
    """The last line if it is whole, else b''."""
    read = min(size, _TAIL_BYTES)
    while True:
        spool.seek(size - read)
        tail = spool.read(read)
        if not tail.endswith(b"\n"):
            return b""
        start = tail.rfind(b"\n", 0, -1)
        if start >= 0 or read == size:
            return tail[start + 1 :]
        read = min(size, read * 4)


def _copies(cache_dir: Path, live: list[_Run]) -> Iterator[Thing[Path]]:
    """What was fetched from afar, by when it was last used."""
    for path in _folders(cache_dir):
        reader = next((run.thing.key.name for run in live if path.name in run.order), "")
        with contextlib.suppress(FileNotFoundError):
            yield Thing(path, path.stat().st_mtime, _size(path), f"run {reader} reads it" if reader else "")


def _folders(cache_dir: Path) -> list[Path]:
    if not cache_dir.is_dir():
        return []
    return [path for path in cache_dir.iterdir() if path.name != _TRASH and path.is_dir()]


def _still_unused(item: Doomed[Path]) -> bool:
    with contextlib.suppress(OSError):
        return item.thing.key.stat().st_mtime == item.thing.at
    return False


def _remove(item: Doomed[Path]) -> bool:
    """Out of the way in one step, then from the disk. False, with a warning, when it can't be."""
    path = item.thing.key
    gone = path.parent / _TRASH / f"{path.name}.{uuid.uuid4().hex}"
    try:
        path.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        log.warning("%s can't be removed: %s", path, error)
        return False
    log.info("Removed %s (%.1f MiB): %s.", path, item.thing.size / 2**20, item.why)
    return True


def _empty_trash(folder: Path) -> None:
    """Remove what an earlier sweep left. The trash itself stays: a full disk may have no room to make it."""
    if folder.is_dir():
        trash = folder / _TRASH
        with contextlib.suppress(OSError):
            trash.mkdir(exist_ok=True)
            for left in trash.iterdir():
                shutil.rmtree(left, ignore_errors=True)


def _size(folder: Path) -> int:
    """Bytes of all files in it; links count as themselves."""
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total
