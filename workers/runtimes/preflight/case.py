"""What the checks are given: the order, its devices, the node's own folder, the model's weights. Checks nothing."""

import struct
from dataclasses import dataclass
from pathlib import Path

from workers.contract.launch import LaunchSpec
from workers.contract.order import Order
from workers.nvml import Nvml, open_nvml
from workers.runtimes.base import Run
from workers.runtimes.preflight.weights import Weights, read_weights


@dataclass(frozen=True)
class Case:
    """One preflight. `brief`: a launch waits for it, so nothing takes long and nothing is written."""

    order: Order
    folder: Path
    """Of this run: it lies on the disk that runs and checkpoints are kept on."""
    nvml: Nvml | None
    weights: Weights | None
    """None without a model, for one that a hub still has, and for files that say nothing of their size."""
    brief: bool
    unreadable: str = ""
    """Why the model's files say nothing of their size."""

    @property
    def device_kind(self) -> str:
        return self.order.devices[0].kind if self.order.devices else "cpu"

    @property
    def weights_bytes(self) -> int | None:
        """Bytes of device memory that the model's weights alone take; None when that isn't known."""
        if self.weights is None:
            return None
        spec = self.order.spec
        launch = spec if isinstance(spec, LaunchSpec) else None
        return self.weights.loaded_bytes(
            launch.precision if launch else "auto", self.device_kind, launch.quantization if launch else "none"
        )

    @property
    def asked_bytes(self) -> int:
        """Memory of each device that the job asked for."""
        return int(self.order.spec.resources.min_memory_gib * 2**30)


def case_of(run: Run, *, brief: bool) -> Case:
    """The case of a run. Raises RunFailed when its model is not there."""
    order, weights, unreadable = run.order, None, ""
    try:
        weights = read_weights(order.model) if order.model else None
    except (OSError, ValueError, KeyError, struct.error) as error:
        unreadable = str(error) or type(error).__name__
    return Case(
        order=order,
        folder=run.run_dir,
        nvml=open_nvml() if run.device_kind == "cuda" else None,
        weights=weights,
        brief=brief,
        unreadable=unreadable,
    )
