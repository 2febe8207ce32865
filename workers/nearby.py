"""Checkpoints that a job's earlier attempts left on this node, also those that never reached the artifact store.

Changes nothing of an earlier attempt. Knows nothing of the store, nor of what a checkpoint holds.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from workers.contract.names import CHECKPOINTS_DIR, HEARD_FILE
from workers.contract.order import Order, ResumeInput
from workers.spool import identity_of
from workers.uploads import LEAVING
from workers.whole import Torn, check_whole, step_of

log = logging.getLogger(__name__)

RESUME_DIR = "resume"
"""Of a run directory: the checkpoint that it goes on from, where that lay on this node."""


def hear(run_dir: Path, step: int) -> None:
    """Note that the run has told of its checkpoint of `step`, and that all it told before is in its spool."""
    with contextlib.suppress(OSError):  # a full disk: the store's checkpoint is gone on from instead
        (run_dir / HEARD_FILE).write_text(str(step))


def left_here(order: Order, run_dir: Path) -> tuple[ResumeInput, int] | None:
    """(the newest whole checkpoint on this node, the attempt that made it); None where the ordered one is later.

    It is linked into the run directory, so that it stays whatever becomes of the earlier one; and one that is later
    than the ordered one is among the run's own checkpoints as well, for the store.
    """
    if order.team:
        return None  # its nodes begin at the same step: the store's
    for step, attempt, folder in sorted(_candidates(order, run_dir.parent), reverse=True):
        if step < max(order.resume_step, 1):
            break
        mine = run_dir / RESUME_DIR / f"step-{step}"
        try:
            _link(folder, mine)
            check_whole(mine, step)
            if step > order.resume_step:
                _link(mine, run_dir / CHECKPOINTS_DIR / mine.name)
        except (OSError, shutil.Error, Torn) as error:
            log.info("Run %s: %s can't be used: %s", run_dir.name, folder, error)
            shutil.rmtree(mine, ignore_errors=True)
            continue
        return ResumeInput(uri=str(mine), step=step), attempt
    return None


def _candidates(order: Order, runs_dir: Path) -> Iterator[tuple[int, int, Path]]:
    """(step, attempt, folder) of what may be a checkpoint of an earlier attempt.

    One that a run made but that nobody heard of is none: its supervisor was dead, and what the run told of the steps
    before it is lost; the next attempt is to do these again.
    """
    for run_dir in runs_dir.glob(f"{order.job}-*"):
        identity = identity_of(run_dir)
        if identity and identity[2] in order.earlier:
            own, until = run_dir / CHECKPOINTS_DIR, _heard(run_dir)
            of_it = [folder for folder in (*own.glob("step-*"), own / LEAVING) if step_of(folder) <= until]
            for folder in (*of_it, *(run_dir / RESUME_DIR).glob("step-*")):
                yield step_of(folder), identity[1], folder


def _heard(run_dir: Path) -> int:
    try:
        return int((run_dir / HEARD_FILE).read_text())
    except (OSError, ValueError):
        return 0


def _link(folder: Path, target: Path) -> None:
    """The same files under another name; they are never written to again. Raises OSError or shutil.Error."""
    shutil.copytree(folder, target, copy_function=link_file)


def link_file(source: str, target: str) -> None:
    """The same file under another name, or a copy of it."""
    try:
        os.link(source, target)
    except PermissionError:  # a file system without links
        shutil.copyfile(source, target)
