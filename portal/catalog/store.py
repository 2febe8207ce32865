"""The portal's door to the artifact store: open, put, move, remove, list, size, all by URI, through fsspec.

Only what lies in the store or below an allowed root. Does not know what the bytes mean.
"""

import io
import os
import shutil
from pathlib import Path
from typing import IO, Any

import fsspec
from django.conf import settings

from workers.contract.names import STORE_SCHEME, UnsafeURI, resolve

PIECE = 2**20


def locate(uri: str) -> str:
    """Where fsspec finds `uri` on this machine. Raises UnsafeURI with a sentence when it may not be opened."""
    place = resolve(uri, settings.LIFTOFF_STORE, settings.LIFTOFF_ALLOWED_ROOTS)
    path = place.removeprefix("file://")
    if "://" not in path:
        roots = [settings.LIFTOFF_STORE, *settings.LIFTOFF_ALLOWED_ROOTS]
        real = os.path.realpath(path)
        locals_ = [os.path.realpath(root.removeprefix("file://")) for root in roots if not root.startswith("s3://")]
        if not any(real == root or real.startswith(root.rstrip("/") + "/") for root in locals_):
            raise UnsafeURI(f"{uri!r} leads outside the allowed roots.")
        return real
    return place


def open_read(uri: str) -> IO[bytes]:
    """Open for reading. Raises UnsafeURI or FileNotFoundError."""
    handle: IO[bytes] = fsspec.open(locate(uri), "rb").open()
    return handle


def put(uri: str, data: bytes) -> None:
    """Write a whole file; readers see the old one or the new one."""
    write(uri, io.BytesIO(data))


def write(uri: str, content: IO[bytes]) -> None:
    """As `put`, of content that needn't fit into memory."""
    place = locate(uri)
    if "://" in place:
        with fsspec.open(place, "wb") as handle:
            shutil.copyfileobj(content, handle, PIECE)
        return
    target = Path(place)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            shutil.copyfileobj(content, handle, PIECE)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def move(uri: str, target_uri: str) -> None:
    """Give a file of the store another name, in place of what has that name."""
    place, target = locate(uri), locate(target_uri)
    if "://" in place:
        fs, path = fsspec.core.url_to_fs(place)
        fs.mv(path, fsspec.core.url_to_fs(target)[1])
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(place).replace(target)


def remove(uri: str) -> None:
    """Delete a file or a folder of the store, if it is there; of a link the link. Raises UnsafeURI elsewhere."""
    if not uri.startswith(f"{STORE_SCHEME}://"):
        raise UnsafeURI(f"{uri!r} is not in the artifact store, and nothing else is deleted.")
    path = resolve(uri, settings.LIFTOFF_STORE).removeprefix("file://")
    if "://" in path:
        fs, path = fsspec.core.url_to_fs(path)
        if fs.exists(path):
            fs.rm(path, recursive=True)
        return
    root = os.path.realpath(settings.LIFTOFF_STORE.removeprefix("file://"))
    folder = os.path.realpath(os.path.dirname(path))
    if folder != root and not folder.startswith(root.rstrip("/") + "/"):
        raise UnsafeURI(f"{uri!r} leads out of the artifact store.")
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def is_folder(uri: str) -> bool:
    """Whether `uri` is an existing folder."""
    fs, path = _filesystem(uri)
    return bool(fs.isdir(path))


def exists(uri: str) -> bool:
    """Whether there is anything at `uri`."""
    fs, path = _filesystem(uri)
    return bool(fs.exists(path))


def files(uri: str) -> list[tuple[str, int]]:
    """(relative name, bytes) of every file at or below `uri`, sorted."""
    fs, path = _filesystem(uri)
    if not fs.isdir(path):
        return [(path.rsplit("/", 1)[-1], int(fs.size(path)))] if fs.exists(path) else []
    found: dict[str, Any] = fs.find(path, detail=True)
    prefix = path.rstrip("/") + "/"
    return sorted((name.removeprefix(prefix), int(info["size"])) for name, info in found.items())


def entries(uri: str) -> list[str]:
    """Names of what lies directly in a folder, sorted; none where there is no folder."""
    fs, path = _filesystem(uri)
    fs.invalidate_cache(path)  # others write there too
    if not fs.isdir(path):
        return []
    return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in fs.ls(path, detail=False))


def _filesystem(uri: str) -> tuple[Any, str]:
    fs, path = fsspec.core.url_to_fs(locate(uri))
    return fs, path
