"""The backup's file: a gzipped tar that begins by saying what it is and ends with the hash of all it holds.

Written whole or not at all; read only after every member was checked. Knows nothing of databases or stores.
"""

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

FORMAT = 1
HEADER = "liftoff-backup.json"
MANIFEST = "manifest.json"
PIECE = 2**20
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError)
"""What reading damaged bytes raises, on one of the way's layers."""


class BackupError(RuntimeError):
    """A backup can't be made or restored; the message is one sentence."""


class _Identity(BaseModel):
    """What every format's header says."""

    what: Literal["Liftoff backup"] = "Liftoff backup"
    format: int = FORMAT
    liftoff: str
    """Version that made it."""


class Header(_Identity):
    """The first member."""

    model_config = ConfigDict(frozen=True)

    made_at: str
    """ISO 8601, UTC."""
    engine: str
    """Database it was made of: sqlite or postgresql."""
    migrations: tuple[tuple[str, str], ...]
    """(app, name) of each that was applied: the state that the tables are in."""
    tables: dict[str, tuple[str, ...]]
    """Label of a table to its columns, in the order of its rows' values."""


class Member(BaseModel):
    """What a member must be: bytes and their SHA-256, hex."""

    size: int
    sha256: str


class Manifest(BaseModel):
    """The last member."""

    members: dict[str, Member]
    rows: dict[str, int]
    """Label of a table to its number of rows."""
    missing: tuple[str, ...] = ()
    """URIs that the database names and the store did not have."""


class ArchiveWriter:
    """Writes one file. A context: leaving it before `finish` removes what was written."""

    def __init__(self, path: Path) -> None:
        """Raises BackupError when there is such a file already, or none can be made there."""
        if path.exists():
            raise BackupError(f"{path} is there already; name a new file.")
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._members: dict[str, Member] = {}
        try:
            # It holds password hashes: for its owner only.
            handle = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise BackupError(f"{path} can't be written: {error.strerror}.") from None
        self._file = os.fdopen(handle, "wb")
        self._packed = gzip.GzipFile(filename="", fileobj=self._file, mode="wb", compresslevel=6)
        self._tar = tarfile.open(fileobj=self._packed, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with contextlib.suppress(*_DAMAGE):
            self._tar.close()
            self._packed.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise BackupError(f"{self._path} can't be written: {error.strerror or error}.") from error

    @property
    def size(self) -> int:
        """Bytes of all members so far, before they are packed."""
        return sum(member.size for member in self._members.values())

    def add(self, name: str, data: bytes) -> None:
        """Add a member that is at hand."""
        self.add_stream(name, io.BytesIO(data), len(data))

    def add_stream(self, name: str, content: IO[bytes], size: int) -> None:
        """Add `size` bytes of `content`. Raises BackupError when it has more or fewer."""
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, int(time.time()), 0o600
        hashing = _Hashing(content)
        try:
            self._tar.addfile(info, hashing)
        except OSError as error:
            if hashing.count < size and "unexpected end of data" in str(error):
                raise BackupError(f"{name} became shorter while it was read; back up again.") from None
            raise
        if content.read(1):
            raise BackupError(f"{name} became longer while it was read; back up again.")
        self._members[name] = Member(size=size, sha256=hashing.sha256.hexdigest())

    def finish(self, rows: dict[str, int], missing: tuple[str, ...]) -> int:
        """Write the manifest and put the file in its place; its bytes. Raises BackupError."""
        self.add(MANIFEST, Manifest(members=self._members, rows=rows, missing=missing).model_dump_json().encode())
        self._tar.close()
        self._packed.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            os.link(self._partial, self._path)  # never over a file that came meanwhile
        except FileExistsError:
            raise BackupError(f"{self._path} is there already; name a new file.") from None
        except OSError:
            self._partial.rename(self._path)  # a file system without links
        return self._path.stat().st_size


class Archive:
    """A backup that was checked to its last byte. A context; what it read is what it checked, the file stays open."""

    def __init__(self, path: Path) -> None:
        """Reads everything once. Raises BackupError: no file, no backup, a newer format, damage."""
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise BackupError(f"{path} can't be read: {error.strerror}.") from None
        try:
            self.header, self.manifest = self._verified(path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def members(self) -> Iterator[tuple[str, IO[bytes]]]:
        """(name, content) of each member but the first and last, in the order they were written."""
        for name, content in self._all():
            if name not in (HEADER, MANIFEST):
                yield name, content

    def _all(self) -> Iterator[tuple[str, IO[bytes]]]:
        self._file.seek(0)
        with gzip.GzipFile(fileobj=self._file, mode="rb") as packed:
            with tarfile.open(fileobj=packed, mode="r|") as tar:
                for info in tar:
                    content = tar.extractfile(info)
                    if content is None:
                        raise tarfile.ReadError(f"{info.name} is no file")
                    yield info.name, content
                    tar.members.clear()  # type: ignore[attr-defined] # it would remember each
            while packed.read(PIECE):  # to the end, where gzip has its own checksum
                pass

    def _verified(self, path: Path) -> tuple[Header, Manifest]:
        found: dict[str, Member] = {}
        header = manifest = None
        try:
            for name, content in self._all():
                if header is None:
                    raw = content.read() if name == HEADER else b""
                    header = _header(path, raw)
                    found[name] = _measured(io.BytesIO(raw))
                elif manifest is not None or name in found:
                    raise BackupError(f"{path} is damaged: it goes on with {name} after its end; nothing was restored.")
                elif name == MANIFEST:
                    manifest = Manifest.model_validate_json(content.read())
                else:
                    found[name] = _measured(content)
        except _DAMAGE as error:
            if header is None:
                raise _no_backup(path) from None
            raise BackupError(f"{path} is cut off or damaged ({_words(error)}); nothing was restored.") from None
        if header is None:
            raise _no_backup(path)
        if manifest is None:
            raise BackupError(f"{path} is cut off: its manifest is missing; nothing was restored.")
        for name in sorted(found.keys() | manifest.members.keys()):
            if found.get(name) != manifest.members.get(name):
                raise BackupError(f"{path} is damaged: {name} isn't what the manifest says; nothing was restored.")
        return header, manifest


class _Hashing(io.RawIOBase):
    """A reader that hashes what passes."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.sha256 = hashlib.sha256()
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._content.read(size)
        self.sha256.update(data)
        self.count += len(data)
        return data


def _header(path: Path, raw: bytes) -> Header:
    try:
        identity = _Identity.model_validate_json(raw)
        if identity.format == FORMAT:
            return Header.model_validate_json(raw)
    except ValidationError:
        raise _no_backup(path) from None
    raise BackupError(
        f"{path} was made by Liftoff {identity.liftoff} in format {identity.format}, and this Liftoff reads format "
        f"{FORMAT}; restore it with that version."
    )


def _measured(content: IO[bytes]) -> Member:
    sha256, size = hashlib.sha256(), 0
    while piece := content.read(PIECE):
        sha256.update(piece)
        size += len(piece)
    return Member(size=size, sha256=sha256.hexdigest())


def _no_backup(path: Path) -> BackupError:
    return BackupError(f"{path} is no backup of Liftoff's; `manage.py backup` makes one.")


def _words(error: BaseException) -> str:
    return "its manifest can't be read" if isinstance(error, ValidationError) else str(error).rstrip(".") or "no end"
