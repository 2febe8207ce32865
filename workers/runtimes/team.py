"""This process's place among those of its run, as torchrun's environment says it, and how they agree.

Knows nothing of who started them. Loads torch only to ask the others.
"""

import os
from typing import Any


def is_rank() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ


def rank() -> int:
    """This process's number among all of its run; 0 where there is one."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number among those of its node, and so its device's among the run's."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def all_agree(well: bool) -> bool:
    """Whether it is so for every process. Each must ask."""
    return not any_wants(not well)


def any_wants(wanted: bool) -> bool:
    """Whether it is so for some process. Each must ask."""
    if world_size() == 1:
        return wanted
    import torch

    device: Any = torch.device("cuda", local_rank()) if torch.distributed.get_backend() == "nccl" else "cpu"
    vote = torch.tensor([float(wanted)], device=device)
    torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
    return bool(vote.item())
