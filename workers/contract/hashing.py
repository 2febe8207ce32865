"""The one way that a folder's content becomes one hash; the portal and the nodes count it alike. Reads nothing."""

import hashlib
from collections.abc import Iterable


def folder_sha256(files: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over the lines `relative/path sha256-of-file\\n`, in order of path.

    `files`: (relative POSIX path, SHA-256 of its content), in any order.
    """
    lines = "".join(f"{relative} {sha256}\n" for relative, sha256 in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()
