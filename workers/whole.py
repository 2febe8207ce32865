"""A checkpoint's folder: whole, with a manifest of its files, or not there.

Knows nothing of what the files hold, nor of who writes or reads them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

MANIFEST_FILE = "checkpoint.json"
VERSION = 1


class Torn(ValueError):
    """A checkpoint that isn't what was written; the message says how."""


def fresh_folder(parent: Path, step: int) -> Path:
    """Where the checkpoint of a step is while it isn't whole."""
    return parent / f".step-{step}"


def write_whole(parent: Path, step: int, fill: Callable[[Path], None]) -> tuple[Path, int]:
    """Make `parent`/step-N of what `fill` writes into a folder, with a manifest of its files; (folder, bytes).

    A reader, and a power failure, see all of it or nothing. Raises what `fill` raises, and OSError.
    """
    folder, fresh = parent / f"step-{step}", fresh_folder(parent, step)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        fill(fresh)
        files = {path.relative_to(fresh).as_posix(): path for path in sorted(fresh.rglob("*")) if path.is_file()}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        manifest = {
            "version": VERSION,
            "step": step,
            "files": {name: {"bytes": sizes[name], "sha256": _sha256(path)} for name, path in files.items()},
        }
        (fresh / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
        for path in [*fresh.rglob("*"), fresh]:
            _sync(path)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
        _sync(parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder, sum(sizes.values()) + (folder / MANIFEST_FILE).stat().st_size


def check_whole(folder: Path, step: int) -> None:
    """Raises Torn unless the folder is the checkpoint of `step` and every file is as its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        version, found, files = manifest["version"], manifest["step"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Torn(f"its {MANIFEST_FILE} can't be read ({type(error).__name__}).") from error
    if version != VERSION:
        raise Torn(f"it has version {version}; this worker reads version {VERSION}.")
    if found != step:
        raise Torn(f"it is of step {found}, not of step {step}.")
    for name, said in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != said["bytes"] or _sha256(path) != said["sha256"]:
            raise Torn(f"its file {name} is missing or damaged.")


def step_of(folder: Path) -> int:
    """The step that a checkpoint says it is of; 0 of a folder that says nothing."""
    try:
        step = json.loads((folder / MANIFEST_FILE).read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return step if type(step) is int else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
