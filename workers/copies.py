"""A node's copies of what lies in a store afar: fetched once for all its runs, whole and verified or not at all.

One copy a content hash where that is known, else one a remote version. A transfer that broke off goes on where it
stopped, in the next run as well. Doesn't know where the store is, nor what is kept for how long (retention).
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from workers.afar import ArtifactDamaged, NoRoom, patiently
from workers.contents import measure
from workers.contract.names import UnsafeURI

PIECE = 32 * 2**20
"""Bytes asked for at a time, and the most that is fetched twice after a break."""
_AT_ONCE = 4
"""Files that are fetched at the same time."""
_PART = ".part"

Room = Callable[[int], object]
"""Makes room for so many bytes more, or raises NoRoom."""
Progress = Callable[[int, int], object]
"""Told (bytes that are here, bytes in all); what it raises ends the transfer, and what came stays."""


def quiet(_done: int, _total: int) -> None:
    """Nobody listens."""


class _File(NamedTuple):
    name: str
    """As the store's file system calls it."""
    relative: PurePosixPath
    size: int
    version: str


class Copies:
    """The folder of copies: <key>/<name of the file or folder>. Threads and processes may share it."""

    def __init__(self, folder: Path, room: Room | None = None) -> None:
        """`room` is asked before anything is fetched; without one, only the disk's free space counts."""
        self._folder = folder
        self._room = room or self._free_space

    def has(self, path: Path) -> bool:
        """Whether this is one of the copies."""
        return path.is_relative_to(self._folder)

    def kept(self, key: str | None) -> Path | None:
        """The copy with that content hash, if there is one; from now on it counts as used."""
        if not key:
            return None
        folder = self._folder / key
        try:
            os.utime(folder)  # when it was last used (workers.retention)
            return next(folder.iterdir())
        except (FileNotFoundError, StopIteration):
            return None

    def discard(self, path: Path) -> None:
        """Remove one of the copies."""
        shutil.rmtree(self._folder / path.relative_to(self._folder).parts[0], ignore_errors=True)

    def get(self, fs: Any, place: str, uri: str, sha256: str | None, progress: Progress = quiet) -> Path:
        """The copy of the file or folder at `place`. Raises ArtifactDamaged, NoRoom, UnsafeURI, or what `fs` raises."""
        if found := self.kept(sha256):
            return found
        files = _listed(fs, place, uri)
        version = hashlib.sha256(repr((place, [(file.name, file.size, file.version) for file in files])).encode())
        key = sha256 or version.hexdigest()
        with self._alone(key):
            if found := self.kept(key):
                return found
            part = self._folder / f"{version.hexdigest()}{_PART}"
            self._fetch(fs, files, part, progress)
            if sha256 and measure(next(part.iterdir()))[1] != sha256:
                # A disk or a line may have spoiled it on the way: once more, from the beginning.
                shutil.rmtree(part)
                self._fetch(fs, files, part, progress)
                if (came := measure(next(part.iterdir()))[1]) != sha256:
                    shutil.rmtree(part)
                    raise ArtifactDamaged(f"{uri!r} has the SHA-256 {came[:12]}…, not {sha256[:12]}… as it was stored.")
            part.rename(self._folder / key)
            return next((self._folder / key).iterdir())

    def _fetch(self, fs: Any, files: list[_File], part: Path, progress: Progress) -> None:
        part.mkdir(parents=True, exist_ok=True)
        os.utime(part)  # now and with each piece, so that no sweep takes it for one that was given up
        total = sum(file.size for file in files)
        here = sum(min(_size(part / file.relative), file.size) for file in files)
        self._room(total - here)
        lock = threading.Lock()

        def came(count: int) -> None:
            nonlocal here
            with lock:
                here += count
                progress(here, total)
            os.utime(part)

        progress(here, total)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download") as pool:
            transfers = [pool.submit(_complete, fs, file, part / file.relative, came) for file in files]
            try:
                for transfer in transfers:
                    transfer.result()
            finally:
                pool.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Wait until nobody else on this node, in any process, fetches the same."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{key}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                current = os.stat(path).st_ino
            except FileNotFoundError:
                current = -1
            if current == os.fstat(descriptor).st_ino:
                break
            os.close(descriptor)  # who held it has removed it since
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def _free_space(self, wanted: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if wanted > free:
            raise no_room(wanted, free, self._folder)


def no_room(wanted: int, free: int, folder: Path) -> NoRoom:
    """For what would take more than the disk has."""
    return NoRoom(
        f"A copy of {wanted / 2**30:.1f} GiB has no room on the node's disk, which has {free / 2**30:.1f} GiB free at "
        f"{folder}."
    )


def _listed(fs: Any, place: str, uri: str) -> list[_File]:
    """Every file at or below `place`, by name. Raises FileNotFoundError, or UnsafeURI for a name that climbs out."""
    found = patiently(lambda: fs.find(place, detail=True))
    if not found:
        raise FileNotFoundError(uri)
    above = PurePosixPath(place).parent
    files = []
    for name, info in sorted(found.items()):
        relative = PurePosixPath(name).relative_to(above)
        if ".." in relative.parts:
            raise UnsafeURI(f"{uri!r} holds {name!r}, which leads out of it.")
        version = next((str(info[key]) for key in ("ETag", "mtime", "LastModified", "created") if info.get(key)), "")
        files.append(_File(name, relative, int(info["size"]), version))
    return files


def _complete(fs: Any, file: _File, target: Path, came: Callable[[int], object]) -> None:
    """Append what isn't here yet of one file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if _size(target) > file.size:
        target.unlink()
    with target.open("ab") as copy:
        here = copy.tell()
        while here < file.size:
            piece = patiently(partial(fs.cat_file, file.name, start=here, end=min(here + PIECE, file.size)))
            if not piece:
                raise OSError(f"{file.name} ended after {here} of {file.size} bytes")
            copy.write(piece)
            copy.flush()
            here += len(piece)
            came(len(piece))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
