"""A file or folder as the artifact store sees it: its regular files, their size and their hash. Knows no store."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from workers.contract.hashing import folder_sha256
from workers.contract.names import UnsafeURI


def measure(local: Path) -> tuple[int, str]:
    """(bytes, SHA-256) of a file, or of a folder as `folder_sha256` counts it. Raises UnsafeURI at a symbolic link."""
    if local.is_file() and not local.is_symlink():
        return local.stat().st_size, sha256_of(local)
    found = [(relative, file.stat().st_size, sha256_of(file)) for relative, file in files_of(local)]
    return sum(size for _, size, _ in found), folder_sha256((relative, sha256) for relative, _, sha256 in found)


def files_of(local: Path) -> Iterator[tuple[str, Path]]:
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


def sha256_of(*files: Path) -> str:
    """Of one file's content; of several, with a NUL between each and the next."""
    whole = hashlib.sha256()
    for number, path in enumerate(files):
        if number:
            whole.update(b"\0")
        with path.open("rb") as file:
            while piece := file.read(2**20):
                whole.update(piece)
    return whole.hexdigest()
