"""The artifact store: models, datasets and results by URI, on a disk, a shared mount or S3.

`ArtifactStore` is the port, `FsspecStore` the real one, `MemoryStore` its twin. Reads are allowed below the store
root and the allowed roots, writes below the store root only. Doesn't know what an artifact is for.
"""

import os
import shutil
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, cast

from workers.afar import ArtifactDamaged, ArtifactMissing, StoreUnreachable, filesystem, patiently, reaching
from workers.contents import files_of, measure
from workers.contract.names import UnsafeURI, resolve
from workers.copies import Copies, Progress, Room, quiet

HUB_SCHEME = "hub://"


class Withheld(RuntimeError):
    """What was to be stored was not, because whoever stored it may no longer."""


Allowed = Callable[[], bool]
"""Asked before anything becomes visible in the store."""


def always() -> bool:
    """No one objects."""
    return True


class ArtifactStore(Protocol):
    """Files and folders by URI. Every method raises UnsafeURI for a place that isn't allowed."""

    def fetch(self, uri: str, sha256: str | None = None, progress: Progress = quiet) -> str:
        """A local path with the content; `hub://` URIs come back as they are. A copy has that SHA-256, if one is given.

        Raises ArtifactMissing, or the kind of it that says why.
        """
        ...

    def is_copy(self, path: str) -> bool:
        """Whether `fetch` made a copy there; else the stored file itself is used, in its place."""
        ...

    def discard(self, path: str) -> None:
        """Remove a copy, so that the next `fetch` makes another."""
        ...

    def put(self, local: Path, uri: str, allowed: Allowed = always) -> tuple[int, str]:
        """Store a file or folder, replacing what is there; (bytes, sha256). Symbolic links are refused (UnsafeURI).

        Raises Withheld as soon as `allowed` says no; then what was there is still there, unless it lies afar. Raises
        OSError of a local store, ArtifactMissing or one of its kinds of one afar.
        """
        ...

    def remove(self, uri: str) -> None:
        """Remove a file or folder, if it is there."""
        ...

    def exists(self, uri: str) -> bool: ...

    def open(self, uri: str) -> IO[bytes]:
        """Read one file. Raises ArtifactMissing."""
        ...


class FsspecStore:
    """A store on anything fsspec opens. Local files are used in place, remote ones are copied to a cache once."""

    def __init__(
        self,
        root: str,
        allowed_roots: tuple[str, ...],
        cache_dir: Path,
        room: Room | None = None,
        copies_local: bool = False,
    ) -> None:
        """`root`: file:///… (made when it doesn't exist) or s3://…; `cache_dir` keeps what was fetched from afar.

        `room` makes room in it. `copies_local`: a `root` with a local path is a mount, and lies afar as well.
        """
        self._root = root
        self._allowed = allowed_roots
        self._copies = Copies(cache_dir, room)
        self._copies_local = copies_local
        self._base = root.removeprefix("file://")
        if _is_local(root):
            Path(self._base).mkdir(parents=True, exist_ok=True)

    def fetch(self, uri: str, sha256: str | None = None, progress: Progress = quiet) -> str:
        if uri.startswith(HUB_SCHEME):
            return uri
        place = self._readable(uri)
        in_place = _is_local(place) and not (self._copies_local and _below(place, self._base))
        if not in_place and (kept := self._copies.kept(sha256)):
            return str(kept)
        if _is_local(place):
            self._check_inside(Path(place), uri)
            if in_place:
                return place
        with reaching(uri):
            fs, path = filesystem(place)
            return str(self._copies.get(fs, path, uri, sha256, progress))

    def is_copy(self, path: str) -> bool:
        return self._copies.has(Path(path))

    def discard(self, path: str) -> None:
        if self.is_copy(path):
            self._copies.discard(Path(path))

    def put(self, local: Path, uri: str, allowed: Allowed = always) -> tuple[int, str]:
        place = resolve(uri, self._root)
        size, sha256 = measure(local)
        if _is_local(place):
            target = Path(place.removeprefix("file://"))
            _check_below(target, [self._base], uri)
            _replace_local(local, target, allowed)
        else:
            _ask(allowed)
            with reaching(uri):
                _replace_afar(local, place, allowed)
        return size, sha256

    def remove(self, uri: str) -> None:
        place = resolve(uri, self._root)
        if _is_local(place):
            _check_below(Path(place.removeprefix("file://")), [self._base], uri)
        with reaching(uri):
            fs, path = filesystem(place)
            if fs.exists(path):
                fs.rm(path, recursive=True)

    def exists(self, uri: str) -> bool:
        place = self._readable(uri)
        with reaching(uri):
            fs, path = filesystem(place)
            return bool(fs.exists(path))

    def open(self, uri: str) -> IO[bytes]:
        place = self._readable(uri)
        with reaching(uri):
            fs, path = filesystem(place)
            return cast(IO[bytes], fs.open(path, "rb"))

    def _readable(self, uri: str) -> str:
        place = resolve(uri, self._root, self._allowed)
        if _is_local(place):
            place = place.removeprefix("file://")
            self._check_real(Path(place), uri)
        return place

    def _check_inside(self, path: Path, uri: str) -> None:
        if not path.exists():
            if _below(str(path), self._base) and not Path(self._base).exists():
                raise StoreUnreachable(f"The artifact store can't be reached for {uri!r}: {self._base} isn't there.")
            raise ArtifactMissing(f"Nothing is at {uri!r} (looked at {path}).")
        for inside in path.rglob("*") if path.is_dir() else ():
            self._check_real(inside, uri)

    def _check_real(self, path: Path, uri: str) -> None:
        roots = [root.removeprefix("file://") for root in (self._root, *self._allowed) if _is_local(root)]
        _check_below(path, roots, uri)


class MemoryStore:
    """The twin: contents in a dictionary, `fetch` writes them below a scratch folder."""

    ROOT = "memory://store"

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.files: dict[str, bytes] = {}
        """Resolved name to content; a folder is a prefix."""

    def fetch(self, uri: str, sha256: str | None = None, progress: Progress = quiet) -> str:
        if uri.startswith(HUB_SCHEME):
            return uri
        name = resolve(uri, self.ROOT)
        inside = {key: data for key, data in self.files.items() if key == name or key.startswith(name + "/")}
        if not inside:
            raise ArtifactMissing(f"Nothing is at {uri!r} in the artifact store.")
        for key, data in inside.items():
            path = self._scratch / key.removeprefix(self.ROOT + "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        progress(total := sum(map(len, inside.values())), total)
        path = self._scratch / name.removeprefix(self.ROOT + "/")
        if sha256 and measure(path)[1] != sha256:
            raise ArtifactDamaged(f"{uri!r} has another SHA-256 than {sha256}.")
        return str(path)

    def is_copy(self, path: str) -> bool:
        return True

    def discard(self, path: str) -> None:
        pass

    def put(self, local: Path, uri: str, allowed: Allowed = always) -> tuple[int, str]:
        name = resolve(uri, self.ROOT)
        measured = measure(local)
        _ask(allowed)
        self.remove(uri)
        for relative, file in files_of(local):
            self.files[f"{name}/{relative}" if relative else name] = file.read_bytes()
        return measured

    def remove(self, uri: str) -> None:
        name = resolve(uri, self.ROOT)
        for key in [key for key in self.files if key == name or key.startswith(name + "/")]:
            del self.files[key]

    def exists(self, uri: str) -> bool:
        name = resolve(uri, self.ROOT)
        return any(key == name or key.startswith(name + "/") for key in self.files)

    def open(self, uri: str) -> IO[bytes]:
        return Path(self.fetch(uri)).open("rb")


def _ask(allowed: Allowed) -> None:
    if not allowed():
        raise Withheld("Nothing more may be stored: the run belongs to another attempt.")


def _replace_local(local: Path, target: Path, allowed: Allowed) -> None:
    """Copy beside the target, then rename, so that a reader sees the old content or the new."""
    _ask(allowed)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        for relative, file in files_of(local):
            copy = fresh / relative if relative else fresh
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        if local.is_dir():
            fresh.mkdir(exist_ok=True)
        _ask(allowed)
        if target.is_dir():
            shutil.rmtree(target)
        fresh.replace(target)
    finally:
        if fresh.is_dir():
            shutil.rmtree(fresh, ignore_errors=True)
        else:
            fresh.unlink(missing_ok=True)


def _replace_afar(local: Path, place: str, allowed: Allowed) -> None:
    """Write over what is there, then remove what was there besides."""
    fs, path = filesystem(place)
    names = {f"{path}/{relative}" if relative else path: file for relative, file in files_of(local)}
    for name, file in names.items():
        _ask(allowed)
        patiently(partial(_put_afar, fs, file, name))
    for old in patiently(lambda: fs.find(path)):
        if old not in names:
            fs.rm_file(old)


def _put_afar(fs: Any, file: Path, name: str) -> None:
    try:
        fs.put_file(str(file), name)
    except FileNotFoundError as error:
        # An upload in parts that the store has lost: the file is here, so another try may do.
        raise OSError(f"the upload of {file.name} was lost ({error})") from error


def _check_below(path: Path, roots: list[str], uri: str) -> None:
    real = os.path.realpath(path)
    if not any(_below(real, base) for base in map(os.path.realpath, roots)):
        raise UnsafeURI(f"{uri!r} leads through a symbolic link out of the allowed roots (to {real}).")


def _below(path: str, base: str) -> bool:
    return path == base or path.startswith(base.rstrip("/") + "/")


def _is_local(place: str) -> bool:
    return place.startswith("file://") or "://" not in place
