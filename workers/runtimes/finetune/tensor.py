"""Tensor parallelism: Transformers shares every layer among neighbours while it loads the model (its `tp_plan`), and
shards what each of them has over the copies that train on other data (FSDP2). Its Trainer knows such models.

Knows nothing of data or evaluation.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, ParallelismConfig
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.distributed import (
    DistributedConfig,
    _load_model_checkpoint_distributed,
    load_optimizer_distributed,
    save_optimizer_distributed,
)

from workers.contract.finetune import FinetuneSpec
from workers.runtimes.base import invalid
from workers.runtimes.team import rank

OPTIMIZER_DIR, SCHEDULE_FILE = "optimizer", "schedule.pt"


def sharding(spec: FinetuneSpec, config: Any) -> DistributedConfig | None:
    """How the processes share the model; None where each has it whole, or DeepSpeed sees to it.

    Raises RunFailed for a model that can't be shared so.
    """
    degree = spec.parallel.tensor
    if degree == 1:
        return None
    text = config.get_text_config()
    if not getattr(text, "base_model_tp_plan", None):
        raise invalid(
            f"parallel.tensor: Transformers has no plan for sharing the layers of a model of type {config.model_type}; "
            "use 1."
        )
    if spec.makes_adapter and (getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None)):
        raise invalid("parallel.tensor: a mixture's experts can't be shared and have adapters; use 1, or method full.")
    heads = {"attention heads": text.num_attention_heads, "key-value heads": text.num_key_value_heads}
    for what, count in heads.items():
        if count % degree:
            raise invalid(
                f"parallel.tensor: {degree} devices can't share this model's {count} {what} evenly; use a divisor."
            )
    return DistributedConfig(tp_size=degree, fsdp_size=spec.data_parallel)


class Layout(ParallelismConfig):  # type: ignore[misc]  # the library is untyped
    """Accelerate's own, which (1.15) refuses processes on CPUs here, though nothing that it does then is for GPUs."""

    def _validate_accelerator(self, accelerator: Any) -> None:
        if accelerator.distributed_type != DistributedType.MULTI_CPU:
            super()._validate_accelerator(accelerator)


def sharing(trainer: type) -> type:
    """The trainer for a model that its processes share."""
    return type("Tensor" + trainer.__name__, (_Shares, trainer), {})


class _Shares(Trainer):  # type: ignore[misc]  # the library is untyped
    """Put before a trainer: each process then writes its own part of the optimizer's state."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for module in self.model.modules():
            # PEFT (0.21) gives an adapter's layer the width of one process's part; Transformers wants the whole.
            if isinstance(module, torch.nn.Linear) and isinstance(module.weight, DTensor):
                module.out_features, module.in_features = module.weight.shape

    def _build_accelerator_args(self, **options: Any) -> dict[str, Any]:
        built: dict[str, Any] = super()._build_accelerator_args(**options)
        layout = built["parallelism_config"]
        return {**built, "parallelism_config": Layout(tp_size=layout.tp_size, dp_shard_size=layout.dp_shard_size)}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_optimizer_distributed(self.model, self.optimizer.optimizer, str(Path(output_dir, OPTIMIZER_DIR)))
        if rank() == 0:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULE_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        load_optimizer_distributed(self.model, self.optimizer.optimizer, str(Path(checkpoint, OPTIMIZER_DIR)))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULE_FILE), weights_only=True))

    def _load_from_checkpoint(self, checkpoint: str, *arguments: Any, **options: Any) -> None:
        if hasattr(self.model, "peft_config"):
            super()._load_from_checkpoint(checkpoint, *arguments, **options)
        else:  # a tied weight is in the file once
            _load_model_checkpoint_distributed(self.model, checkpoint, strict=False)
