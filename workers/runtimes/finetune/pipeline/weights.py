"""A pipeline's weights, out of an ordinary checkpoint and into one.

Each process reads its own stage only; the first process alone holds the whole model, in host memory, to write it.
Knows nothing of training.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import GenerationConfig

from workers.runtimes.base import invalid
from workers.runtimes.finetune.pipeline.stages import checkpoint_name
from workers.runtimes.team import rank, world_size


def read_stage(module: Any, folder: Path, layers: int) -> None:
    """Fill this process's stage from the safetensors in `folder`. Raises RunFailed where a tensor isn't as the config
    says."""
    wanted = {checkpoint_name(name, layers): parameter for name, parameter in module.named_parameters()}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in wanted.keys() & set(tensors.keys()):
                found, parameter = tensors.get_tensor(name), wanted.pop(name)
                if found.shape != parameter.shape:
                    raise invalid(
                        f"model: {name} has the shape {tuple(found.shape)}, and its config says "
                        f"{tuple(parameter.shape)}; use a whole checkpoint."
                    )
                with torch.no_grad():
                    parameter.copy_(found)
    if wanted:
        raise invalid(f"model: its files hold no {min(wanted)}, which a pipeline reads by that name.")


def write_whole_model(folder: Path, module: Any, outline: Any, tokenizer: Any, source: Path) -> None:
    """Write an ordinary Transformers checkpoint; every process calls it, the first writes. `source`: where the model
    came from, whose settings for generating stay."""
    state = dict(_gathered(module, outline.config.num_hidden_layers))
    if rank() == 0:
        if (source / "generation_config.json").is_file():
            outline.generation_config = GenerationConfig.from_pretrained(source)
        outline.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)


def _gathered(module: Any, layers: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Each parameter by its name in a checkpoint, for the first process; the others send theirs, one at a time."""
    mine = {
        checkpoint_name(name, layers): parameter.detach()
        for name, parameter in module.named_parameters()
        if not parameter.ds_pipe_replicated and module.mpu().get_data_parallel_id() == 0
    }
    parts: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(parts, [(name, tensor.shape, tensor.dtype) for name, tensor in mine.items()])
    device = next(module.parameters()).device
    for owner, part in enumerate(parts):
        for name, shape, dtype in part:
            if rank() == owner and owner != 0:
                torch.distributed.send(mine[name].contiguous(), 0)
            elif rank() == 0:
                tensor = mine[name] if owner == 0 else torch.empty(shape, dtype=dtype, device=device)
                if owner != 0:
                    torch.distributed.recv(tensor, owner)
                yield name, tensor.cpu()
