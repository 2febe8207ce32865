"""DeepSpeed's config file of a fine-tune, every value written out: what the node runs and the portal shows.

Pure. Source of its fields: DeepSpeed's "DeepSpeed Configuration JSON" reference.
"""

from typing import Any

from workers.contract.deepspeed import Offload
from workers.contract.finetune import FinetuneSpec


def ds_config(
    spec: FinetuneSpec, processes: int, precision: str, pinned: bool, nvme_path: str
) -> dict[str, Any] | None:
    """None where the spec asks for no DeepSpeed. `precision`: 'auto' before a node has chosen it. `pinned`: the host's
    memory is that of a GPU's node."""
    if spec.deepspeed is None:
        return None
    zero: dict[str, Any] = {"stage": spec.deepspeed.zero_stage}
    if spec.deepspeed.offload_optimizer != "none":
        zero["offload_optimizer"] = _offload(spec.deepspeed.offload_optimizer, pinned, nvme_path)
    if spec.deepspeed.offload_parameters != "none":
        zero["offload_param"] = _offload(spec.deepspeed.offload_parameters, pinned, nvme_path)
    if spec.deepspeed.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    made = {
        "train_micro_batch_size_per_gpu": spec.micro_batch,
        "gradient_accumulation_steps": spec.gradient_accumulation,
        "train_batch_size": spec.micro_batch * spec.gradient_accumulation * processes,
        "gradient_clipping": spec.max_grad_norm,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": spec.learning_rate,
                "betas": [spec.beta1, spec.beta2],
                "eps": 1e-8,
                "weight_decay": spec.weight_decay,
                # PyTorch's AdamW: DeepSpeed's own ones are compiled on the node, for minutes, when first used.
                "torch_adam": True,
            },
        },
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": precision if precision == "auto" else precision not in ("fp32", "fp16")},
        "fp16": {"enabled": precision == "fp16"},
        "steps_per_print": 10**9,
    }
    return _laid_over(made, spec.deepspeed.config)


def _offload(where: Offload, pinned: bool, nvme_path: str) -> dict[str, Any]:
    return {"device": where, "pin_memory": pinned, **({"nvme_path": nvme_path} if where == "nvme" else {})}


def _laid_over(made: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Object by object; any other value takes the place of what was there."""
    merged = dict(made)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
