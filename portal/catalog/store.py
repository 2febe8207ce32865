"""The portal's door to the artifact store: open, put, move, remove, list, size, all by URI, through fsspec.

Only what lies in the store or below an allowed root. Does not know what the bytes mean.
"""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import fsspec
from django.conf import settings

from workers.contract.names import STORE_SCHEME, UnsafeURI, resolve

PIECE = 2**20
_HEADER = 64 * PIECE
_S3 = {"use_listings_cache": False, "config_kwargs": {"connect_timeout": 5, "retries": {"max_attempts": 1}}}
"""Others write there too, and a page waits for the answer."""


class Unreachable(OSError):
    """The store doesn't answer. The message is one sentence."""


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
    with _reaching():
        fs, path = _filesystem(uri)
        handle: IO[bytes] = fs.open(path, "rb")
        return handle


@contextmanager
def beginning(uri: str) -> Iterator[str]:
    """A local file with the first 64 MiB of the content and nothing after them, but of its whole size."""
    place = locate(uri)
    if "://" not in place:
        yield place
        return
    with open_read(uri) as content, NamedTemporaryFile(suffix=Path(place).suffix) as copy:
        copy.write(content.read(_HEADER))
        copy.truncate(files(uri)[0][1])
        copy.flush()
        yield copy.name


def put(uri: str, data: bytes) -> None:
    """Write a whole file; readers see the old one or the new one."""
    write(uri, io.BytesIO(data))


def write(uri: str, content: IO[bytes]) -> None:
    """As `put`, of content that needn't fit into memory."""
    place = locate(uri)
    if "://" in place:
        with _reaching():
            fs, path = _filesystem(uri)
            with fs.open(path, "wb") as handle:
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
        with _reaching():
            fs, path = _filesystem(uri)
            fs.mv(path, fs._strip_protocol(target))
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(place).replace(target)


def remove(uri: str) -> None:
    """Delete a file or a folder of the store, if it is there; of a link the link. Raises UnsafeURI elsewhere."""
    if not uri.startswith(f"{STORE_SCHEME}://"):
        raise UnsafeURI(f"{uri!r} is not in the artifact store, and nothing else is deleted.")
    path = resolve(uri, settings.LIFTOFF_STORE).removeprefix("file://")
    if "://" in path:
        with _reaching():
            fs, path = _filesystem(uri)
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
    with _reaching():
        fs, path = _filesystem(uri)
        return bool(fs.isdir(path))


def exists(uri: str) -> bool:
    """Whether there is anything at `uri`."""
    with _reaching():
        fs, path = _filesystem(uri)
        return bool(fs.exists(path))


def files(uri: str) -> list[tuple[str, int]]:
    """(relative name, bytes) of every file at or below `uri`, sorted."""
    with _reaching():
        fs, path = _filesystem(uri)
        if not fs.isdir(path):
            return [(path.rsplit("/", 1)[-1], int(fs.size(path)))] if fs.exists(path) else []
        found: dict[str, Any] = fs.find(path, detail=True)
    prefix = path.rstrip("/") + "/"
    return sorted((name.removeprefix(prefix), int(info["size"])) for name, info in found.items())


def entries(uri: str) -> list[str]:
    """Names of what lies directly in a folder, sorted; none where there is no folder."""
    with _reaching():
        fs, path = _filesystem(uri)
        if not fs.isdir(path):
            return []
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in fs.ls(path, detail=False))


def _filesystem(uri: str) -> tuple[Any, str]:
    place = locate(uri)
    fs, path = fsspec.core.url_to_fs(place, **(_S3 if place.startswith("s3://") else {}))
    return fs, path


@contextmanager
def _reaching() -> Iterator[None]:
    """Turns what a driver raises beside OSError into Unreachable."""
    try:
        yield
    except (OSError, UnsafeURI):
        raise
    except ImportError as error:
        raise Unreachable(f"The artifact store needs a driver that isn't installed ({error}).") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("botocore", "aiobotocore", "aiohttp"):
            raise
        raise Unreachable(f"The artifact store can't be reached: {str(error).rstrip('.')}.") from error
