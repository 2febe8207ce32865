"""DeepSpeed: its config from the spec, and the surroundings it wants.

Knows nothing of models. Source of the config's fields: DeepSpeed's "DeepSpeed Configuration JSON" reference.
"""

import os
import socket
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch

from workers.contract.finetune import FinetuneSpec
from workers.runtimes.team import world_size

WAIT_S = 4 * 3600
"""How long processes wait for one another: the first scores while the others wait."""


def deepspeed_config(spec: FinetuneSpec, dtype: torch.dtype, device_kind: str) -> dict[str, Any] | None:
    """The DeepSpeed config, every value written out; None where the spec asks for no DeepSpeed."""
    if spec.deepspeed is None:
        return None
    zero: dict[str, Any] = {"stage": spec.deepspeed.zero_stage}
    if spec.deepspeed.offload_optimizer and spec.deepspeed.zero_stage > 0:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device_kind == "cuda"}
    if spec.deepspeed.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_micro_batch_size_per_gpu": spec.micro_batch,
        "gradient_accumulation_steps": spec.gradient_accumulation,
        "train_batch_size": spec.micro_batch * spec.gradient_accumulation * world_size(),
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
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
        "steps_per_print": 10**9,
    }


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
