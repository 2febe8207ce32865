"""Where layers go that are beyond the memory a launch gives its weights: options for the library's loader.

Knows nothing of how they are brought back when they are read (accelerate does that).
"""

from pathlib import Path
from typing import Any

import psutil

from workers.contract.launch import LaunchSpec

FOLDER = "offloaded"


def options(spec: LaunchSpec, device_kind: str, devices: int, run_dir: Path) -> dict[str, Any]:
    """Options of `from_pretrained`; none where nothing is to be offloaded. On a CPU the device is the CPU itself, and
    layers go to the disk."""
    if spec.offload == "none":
        return {}
    limit = int(spec.device_memory_gib * 2**30)
    if device_kind == "cuda":
        beside = psutil.virtual_memory().available if spec.offload == "cpu" else 0
        memory: dict[int | str, int] = {**dict.fromkeys(range(max(1, devices)), limit), "cpu": beside}
    else:
        memory = {"cpu": limit}
    return {"device_map": "auto", "max_memory": memory, "offload_folder": str(run_dir / FOLDER)}
