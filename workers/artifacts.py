"""The artifact store: models, datasets and results by URI, on a disk, a shared mount or S3.

`ArtifactStore` is the port, `FsspecStore` the real one, `MemoryStore` its twin. Reads are allowed below the store
root and the allowed roots, writes below the store root only. Doesn't know what an artifact is for.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

import fsspec

from workers.contract.names import UnsafeURI, resolve

HUB_SCHEME = "hub://"
_CHUNK = 1024 * 1024


class ArtifactMissing(LookupError):
    """Nothing is at the URI, or the store can't be reached. The message is one sentence."""


class Withheld(RuntimeError):
    """What was to be stored was not, because whoever stored it may no longer."""


Allowed = Callable[[], bool]
"""Asked before anything becomes visible in the store."""


def always() -> bool:
    """No one objects."""
    return True


class ArtifactStore(Protocol):
    """Files and folders by URI. Every method raises UnsafeURI for a place that isn't allowed."""

    def fetch(self, uri: str) -> str:
        """A local path with the content; `hub://` URIs come back as they are. Raises ArtifactMissing."""
        ...

    def put(self, local: Path, uri: str, allowed: Allowed = always) -> tuple[int, str]:
        """Store a file or folder, replacing what is there; (bytes, sha256). Symbolic links are refused (UnsafeURI).

        Raises Withheld as soon as `allowed` says no; then what was there is still there, unless it lies afar.
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

    def __init__(self, root: str, allowed_roots: tuple[str, ...], cache_dir: Path) -> None:
        """`root`: file:///… (made when it doesn't exist) or s3://…; `cache_dir` keeps what was fetched from afar."""
        self._root = root
        self._allowed = allowed_roots
        self._cache = cache_dir
        self._fs, self._base = _filesystem(root)
        if _is_local(root):
            Path(self._base).mkdir(parents=True, exist_ok=True)

    def fetch(self, uri: str) -> str:
        if uri.startswith(HUB_SCHEME):
            return uri
        place = self._readable(uri)
        if _is_local(place):
            path = Path(place)
            if not path.exists():
                raise ArtifactMissing(f"Nothing is at {uri!r} (looked at {place}).")
            for inside in path.rglob("*") if path.is_dir() else ():
                self._check_real(inside, uri)
            return place
        try:
            return str(self._download(uri, place))
        except (OSError, ImportError) as error:
            raise ArtifactMissing(f"{uri!r} could not be read: {error}.") from error

    def put(self, local: Path, uri: str, allowed: Allowed = always) -> tuple[int, str]:
        place = resolve(uri, self._root)
        size, sha256 = measure(local)
        if _is_local(place):
            target = Path(place.removeprefix("file://"))
            _check_below(target, [self._base], uri)
            _replace_local(local, target, allowed)
        else:
            _ask(allowed)
            fs, path = _filesystem(place)
            if fs.exists(path):
                fs.rm(path, recursive=True)
            for relative, file in _files(local):
                _ask(allowed)
                fs.put_file(str(file), f"{path}/{relative}" if relative else path)
        return size, sha256

    def remove(self, uri: str) -> None:
        place = resolve(uri, self._root)
        if _is_local(place):
            _check_below(Path(place.removeprefix("file://")), [self._base], uri)
        fs, path = _filesystem(place)
        if fs.exists(path):
            fs.rm(path, recursive=True)

    def exists(self, uri: str) -> bool:
        place = self._readable(uri)
        fs, path = _filesystem(place)
        return bool(fs.exists(path))

    def open(self, uri: str) -> IO[bytes]:
        place = self._readable(uri)
        fs, path = _filesystem(place)
        try:
            return cast(IO[bytes], fs.open(path, "rb"))
        except OSError as error:
            raise ArtifactMissing(f"{uri!r} could not be read: {error}.") from error

    def _readable(self, uri: str) -> str:
        place = resolve(uri, self._root, self._allowed)
        if _is_local(place):
            place = place.removeprefix("file://")
            self._check_real(Path(place), uri)
        return place

    def _check_real(self, path: Path, uri: str) -> None:
        roots = [root.removeprefix("file://") for root in (self._root, *self._allowed) if _is_local(root)]
        _check_below(path, roots, uri)

    def _download(self, uri: str, place: str) -> Path:
        """Copy to <cache>/<hash of the remote names, sizes and versions>, whole or not at all."""
        fs, path = _filesystem(place)
        if not fs.exists(path):
            raise ArtifactMissing(f"Nothing is at {uri!r} in the artifact store.")
        remote = {name: fs.checksum(name) for name in (sorted(fs.find(path)) if fs.isdir(path) else [path])}
        key = hashlib.sha256(repr((place, sorted(remote.items()))).encode()).hexdigest()
        folder = self._cache / key
        target = folder / PurePosixPath(path).name
        with contextlib.suppress(OSError):
            os.utime(folder)  # when it was last used (workers.retention)
        if target.exists():
            return target
        fresh = self._cache / f"{key}.{uuid.uuid4().hex}"
        try:
            for name in remote:
                relative = PurePosixPath(name).relative_to(PurePosixPath(path).parent)
                (fresh / relative).parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(name, str(fresh / relative))
            try:
                fresh.rename(folder)
            except OSError:
                if not target.exists():  # else another thread was first, with the same content
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return target


class MemoryStore:
    """The twin: contents in a dictionary, `fetch` writes them below a scratch folder."""

    ROOT = "memory://store"

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.files: dict[str, bytes] = {}
        """Resolved name to content; a folder is a prefix."""

    def fetch(self, uri: str) -> str:
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
        return str(self._scratch / name.removeprefix(self.ROOT + "/"))

    def put(self, local: Path, uri: str, allowed: Allowed = always) -> tuple[int, str]:
        name = resolve(uri, self.ROOT)
        measured = measure(local)
        _ask(allowed)
        self.remove(uri)
        for relative, file in _files(local):
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


def measure(local: Path) -> tuple[int, str]:
    """(bytes, sha256) of a file, or of a folder: sha256 over its sorted lines `relative/path sha256-of-file\\n`.

    Raises UnsafeURI at a symbolic link.
    """
    if local.is_file() and not local.is_symlink():
        return local.stat().st_size, _sha256(local)
    size, lines = 0, hashlib.sha256()
    for relative, file in _files(local):
        size += file.stat().st_size
        lines.update(f"{relative} {_sha256(file)}\n".encode())
    return size, lines.hexdigest()


def _files(local: Path) -> Iterator[tuple[str, Path]]:
    """(relative POSIX path, file) of all regular files, sorted; ('', file) for a file itself."""
    if local.is_symlink():
        raise UnsafeURI(f"{local.name!r} is a symbolic link; only files and folders are stored.")
    if local.is_file():
        yield "", local
        return
    for path in sorted(local.rglob("*"), key=lambda found: found.relative_to(local).as_posix()):
        if path.is_symlink():
            raise UnsafeURI(f"{path.relative_to(local.parent)} is a symbolic link; only files and folders are stored.")
        if path.is_file():
            yield path.relative_to(local).as_posix(), path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ask(allowed: Allowed) -> None:
    if not allowed():
        raise Withheld("Nothing more may be stored: the run belongs to another attempt.")


def _replace_local(local: Path, target: Path, allowed: Allowed) -> None:
    """Copy beside the target, then rename, so that a reader sees the old content or the new."""
    _ask(allowed)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        for relative, file in _files(local):
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


def _check_below(path: Path, roots: list[str], uri: str) -> None:
    real = os.path.realpath(path)
    if not any(real == base or real.startswith(base.rstrip("/") + "/") for base in map(os.path.realpath, roots)):
        raise UnsafeURI(f"{uri!r} leads through a symbolic link out of the allowed roots (to {real}).")


def _is_local(place: str) -> bool:
    return place.startswith("file://") or "://" not in place


def _filesystem(place: str) -> tuple[Any, str]:
    """fsspec's file system for a place, and the path in it. Raises ImportError (one sentence) without its driver."""
    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(place))
    except ImportError as error:
        raise ImportError(f"{place.split('://')[0]}:// needs a driver on this node ({error})") from error
