"""DeepSpeed on this node: its config, where it offloads to, and the surroundings it wants.

Knows nothing of models.
"""

import atexit
import os
import shutil
import socket
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from workers.contract.deepspeed import DeepSpeedSettings
from workers.contract.ds_config import ds_config
from workers.runtimes.base import Run, invalid
from workers.runtimes.team import world_size

ROOTS_ENV = "LIFTOFF_ALLOWED_ROOTS"
NUMBERS: dict[torch.dtype, str] = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
WAIT_S = 4 * 3600
"""How long processes wait for one another: the first scores while the others wait."""


def deepspeed_config(run: Run, dtype: torch.dtype) -> dict[str, Any] | None:
    """The DeepSpeed config, every value written out; None where the spec asks for no DeepSpeed."""
    spec = run.finetune_spec
    folder = _nvme_folder(run, spec.deepspeed) if spec.deepspeed and spec.deepspeed.uses_nvme else run.run_dir
    return ds_config(spec, world_size(), NUMBERS[dtype], run.device_kind == "cuda", str(folder))


def _nvme_folder(run: Run, settings: DeepSpeedSettings) -> Path:
    """A folder for this run alone, gone when its process ends. Raises RunFailed for a place that isn't allowed, and
    where DeepSpeed can't read and write past the page cache."""
    if not settings.nvme_path:
        folder = run.run_dir / "nvme"
    else:
        roots = [root.strip().removeprefix("file://") for root in os.environ.get(ROOTS_ENV, "").split(",")]
        real = os.path.realpath(settings.nvme_path)
        if not any(Path(real).is_relative_to(os.path.realpath(root)) for root in roots if root.startswith("/")):
            known = ", ".join(filter(None, roots)) or "none are set"
            raise invalid(
                f"deepspeed.nvme_path: {settings.nvme_path!r} is outside this node's allowed roots ({known}); use a "
                f"folder below one of them ({ROOTS_ENV}), or leave it empty."
            )
        folder = Path(real) / f"liftoff-{run.run_dir.name}"
        if run.leads:
            for left in Path(real).glob(f"liftoff-{run.order.job}-*"):  # of attempts that were killed
                if left != folder:
                    shutil.rmtree(left, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise invalid(f"deepspeed.nvme_path: {str(folder)!r} can't be made on this node ({error.strerror}).") from error
    if run.leads:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise invalid(
            "deepspeed: offload to nvme needs DeepSpeed's async I/O, which can't be built on this node; install "
            "libaio-dev and a C++ compiler there, or offload to cpu."
        )
    return folder


def prepare_deepspeed(device_kind: str) -> None:
    """Open DeepSpeed's process group; a single process is given the rendezvous that torchrun would give it.

    Must be called before the model is loaded: ZeRO 3 shards it while it loads. On a CPU DeepSpeed would compile a
    shared-memory all-reduce; gloo takes its place, so no compiler is needed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    for name, value in {**alone, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        os.environ.setdefault(name, value)

    import deepspeed

    if device_kind == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    patience = timedelta(seconds=WAIT_S)
    deepspeed.init_distributed("nccl" if device_kind == "cuda" else "gloo", timeout=patience, verbose=False)


def whole_parameters(parameters: Any, sharded: bool) -> AbstractContextManager[Any]:
    """Within it, parameters that ZeRO 3 has sharded are whole."""
    if not sharded:
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters))
    return gathered
