"""A DeepSpeed checkpoint made by another number of processes, turned into one that any number can read.

ZeRO keeps its states in as many parts as there are processes; DeepSpeed's own converter makes a universal checkpoint of
them. Knows nothing of what is trained.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from workers.runtimes.base import Run, invalid
from workers.runtimes.team import all_agree, local_rank, world_size

FOLDER = "universal"
"""Of a run directory: the checkpoint in its other form."""
LATEST = "latest_universal"


def reshaped(run: Run, checkpoint: Path | None, ds_config: dict[str, Any]) -> Path | None:
    """The checkpoint to give to DeepSpeed; another folder and a changed config where as many processes didn't make it.

    Of several processes each calls it. Raises RunFailed where it can't be turned.
    """
    parts = made_by(checkpoint) if checkpoint else 0
    if checkpoint is None or parts in (0, world_size()):
        return checkpoint
    folder = run.run_dir / FOLDER
    said = ""
    if local_rank() == 0:
        run.say(f"{_processes(parts)} made the checkpoint, and {world_size()} go on from it.")
        said = _turn(checkpoint, folder)
    if not all_agree(not said):
        raise invalid(
            f"resume: {_processes(parts)} made the checkpoint, which can't be turned for {world_size()} "
            f"({said or 'the log says why'}); run on as many devices, or start a new job."
        )
    ds_config["checkpoint"] = {"load_universal": True}
    return folder


def made_by(checkpoint: Path) -> int:
    """The processes that ZeRO kept its states in parts for; 0 where it didn't."""
    return len(list(checkpoint.glob("global_step*/*zero_pp_rank_*_optim_states.pt")))


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _turn(checkpoint: Path, folder: Path) -> str:
    """Make the universal form of it; why that can't be, or ''."""
    shutil.rmtree(folder, ignore_errors=True)
    (source,) = checkpoint.glob("global_step*")
    target = folder / f"{source.name}_{FOLDER}"
    # A process of its own, for it starts others.
    converter = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    done = subprocess.run(
        [*converter, "--input_folder", str(source), "--output_folder", str(target)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")},
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    for path in checkpoint.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    (folder / LATEST).write_text(target.name)
    return ""
