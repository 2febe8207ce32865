"""DeepSpeed's settings of a fine-tune, and what a user may lay over the config that is made of them.

Knows no DeepSpeed. Source of the config's fields: DeepSpeed's "DeepSpeed Configuration JSON" reference.
"""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from workers.contract.base import Contract

Offload = Literal["none", "cpu", "nvme"]

OWNED = {
    "train_batch_size": "micro_batch and gradient_accumulation",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "gradient_accumulation",
    "gradient_clipping": "max_grad_norm",
    "optimizer.params.lr": "learning_rate",
    "optimizer.params.betas": "beta1 and beta2",
    "optimizer.params.weight_decay": "weight_decay",
    "scheduler": "schedule and warmup_ratio",
    "bf16.enabled": "precision",
    "fp16.enabled": "precision",
    "zero_optimization.stage": "deepspeed.zero_stage",
    "zero_optimization.offload_optimizer.device": "deepspeed.offload_optimizer",
    "zero_optimization.offload_param.device": "deepspeed.offload_parameters",
    "elasticity": "resources.devices",
    "checkpoint": "checkpoint_every",
}
"""Keys of the config that another field of the spec sets."""
PLACES = ("path", "file", "dir", "folder")
"""What the last word of a key is that names a place on the node."""
MONITORS = ("tensorboard", "wandb", "comet", "csv_monitor")
MOST_CHARACTERS = 20_000


def _object(value: object) -> object:
    """A form gives the object as JSON text. Raises ValueError for text that is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else {}
    except ValueError as error:
        raise ValueError(f'it is no JSON ({error}); write an object, e.g. {{"zero_optimization": {{…}}}}.') from None


class DeepSpeedSettings(Contract):
    """ZeRO (Rajbhandari et al. 2020) settings for DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = Field(2, title="ZeRO stage")
    offload_optimizer: Offload = Field(
        "none",
        title="Offload optimizer",
        description="Keep its states in the node's memory; nvme: on its disk, ZeRO 3 only.",
    )
    offload_parameters: Offload = Field(
        "none", title="Offload parameters", description="ZeRO 3 only: keep the weights there between their turns."
    )
    nvme_path: str = Field(
        "",
        max_length=400,
        title="Folder for offload to NVMe",
        description="On the node, below its LIFTOFF_ALLOWED_ROOTS; empty: the run's own folder.",
    )
    config: Annotated[dict[str, Any], BeforeValidator(_object)] = Field(
        default_factory=dict,
        title="DeepSpeed config",
        description="A JSON object laid over the config made of these settings, key by key.",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_it_was(cls, given: Any) -> Any:
        """Specs of before say true or false: to the CPU or not, which ZeRO 0 never did."""
        if isinstance(given, dict) and isinstance(offloads := given.get("offload_optimizer"), bool):
            can = str(given.get("zero_stage", 2)) != "0"
            return {**given, "offload_optimizer": "cpu" if offloads and can else "none"}
        return given

    @model_validator(mode="after")
    def _offload_fits_the_stage(self) -> Self:
        stage, optimizer, parameters = self.zero_stage, self.offload_optimizer, self.offload_parameters
        if optimizer != "none" and stage == 0:
            raise ValueError(f"offload_optimizer: {optimizer} needs ZeRO 1 or more; raise the stage, or use none.")
        if optimizer == "nvme" and stage != 3:
            raise ValueError(f"offload_optimizer: nvme needs ZeRO 3, not {stage}; raise the stage, or use cpu.")
        if parameters != "none" and stage != 3:
            raise ValueError(
                f"offload_parameters: {parameters} needs ZeRO 3, not {stage}; raise the stage, or use none."
            )
        if self.nvme_path and not self.uses_nvme:
            raise ValueError(f"nvme_path: {self.nvme_path!r} has no meaning where nothing is offloaded to nvme.")
        path = PurePosixPath(self.nvme_path)
        if self.nvme_path and (not path.is_absolute() or ".." in path.parts):
            raise ValueError(f"nvme_path: {self.nvme_path!r} is no plain absolute path; write it like /mnt/nvme0.")
        return self

    @model_validator(mode="after")
    def _config_is_the_users_to_change(self) -> Self:
        if len(json.dumps(self.config)) > MOST_CHARACTERS:
            raise ValueError(f"config: it has more than {MOST_CHARACTERS:,} characters; keep what differs.")
        for key, value in _keys(self.config):
            if owner := OWNED.get(key):
                raise ValueError(f"config: its key {key} is set by {owner}; leave it out here.")
            if key in MONITORS:
                raise ValueError(f"config: its key {key} can't be had; a job's metrics are on its page.")
            if key.rsplit(".", 1)[-1].rsplit("_", 1)[-1] in PLACES and value:
                raise ValueError(
                    f"config: its key {key} names a place on the node, which is the run's to choose; leave it out."
                )
        return self

    @property
    def uses_nvme(self) -> bool:
        return "nvme" in (self.offload_optimizer, self.offload_parameters)


def _keys(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(key with those above it, value) at every depth."""
    for key, value in config.items():
        yield f"{above}{key}", value
        for inside in value if isinstance(value, list) else [value]:
            if isinstance(inside, dict):
                yield from _keys(inside, f"{above}{key}.")
