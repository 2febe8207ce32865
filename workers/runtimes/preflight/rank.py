"""One process of the all-reduce: `python -m workers.runtimes.preflight.rank BACKEND RANKS RENDEZVOUS_FILE RANK`.

Rank 0 prints one line of JSON. Judges nothing.
"""

import json
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

SIZES = (64 * 1024, 1024 * 1024, 16 * 1024 * 1024, 64 * 1024 * 1024)
WARM_UPS, REPEATS = 1, 3


def main(backend: str, ranks: int, rendezvous: str, rank: int) -> None:
    """Sum tensors of each size over all ranks; time them, and check the sum."""
    if backend == "nccl":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        # One node: the loopback always exists, while the host's name may lead nowhere.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group(
        backend, init_method=f"file://{rendezvous}", world_size=ranks, rank=rank, timeout=timedelta(seconds=60)
    )
    measured = [(size, _seconds(size, device)) for size in SIZES]
    correct = _sums(device, ranks, rank)
    dist.barrier()
    if rank == 0:
        print(json.dumps({"measured": measured, "correct": correct}), flush=True)
    dist.destroy_process_group()


def _seconds(size: int, device: torch.device) -> float:
    """Mean seconds of one all-reduce of `size` bytes of fp32."""
    tensor = torch.zeros(size // 4, device=device)
    for _ in range(WARM_UPS):
        dist.all_reduce(tensor)
    _finish(device)
    dist.barrier()
    start = time.perf_counter()
    for _ in range(REPEATS):
        dist.all_reduce(tensor)
    _finish(device)
    return (time.perf_counter() - start) / REPEATS


def _sums(device: torch.device, ranks: int, rank: int) -> bool:
    """Whether rank + 1 of every rank adds up to n(n+1)/2, in every element and on every rank."""
    tensor = torch.full((1024 * 1024,), float(rank + 1), device=device)
    dist.all_reduce(tensor)
    wrong = (tensor != ranks * (ranks + 1) / 2).any().float()
    dist.all_reduce(wrong)
    return not bool(wrong.item())


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
