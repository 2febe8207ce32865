"""One process of an all-reduce: `python -m workers.runtimes.preflight.rank BACKEND RANKS RENDEZVOUS RANK SIZES STEP`.

RENDEZVOUS is a file; SIZES are bytes with commas; STEP is 1 to time a training step as well. Rank 0 prints one line of
JSON. Judges nothing.
"""

import json
import os
import sys
import time
from datetime import timedelta
from statistics import median

import torch
import torch.distributed as dist

WARM_UPS = 1
FEWEST, MOST = 3, 50
"""Repeats of one size: fewer the larger it is."""
LAYERS, STEPS = 4, 5
WIDTH = {"cpu": 1024, "cuda": 4096}
"""Of the step: matrices of this width, on as many rows."""


def main(backend: str, ranks: int, rendezvous: str, rank: int, sizes: list[int], step: bool) -> None:
    """Sum tensors of each size over all ranks; time them, and check the sum."""
    if backend == "nccl":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        # One node: the loopback always exists, while the host's name may lead nowhere.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        torch.set_num_threads(1)  # so that another process takes no core of this one's
    dist.init_process_group(
        backend, init_method=f"file://{rendezvous}", world_size=ranks, rank=rank, timeout=timedelta(seconds=60)
    )
    said = {
        "measured": [(size, _seconds(size, device)) for size in sizes] if ranks > 1 else [],
        "correct": _sums(device, ranks, rank),
        "step_s": _step_seconds(device) if step else None,
        "step_words": _step_words(device),
    }
    dist.barrier()
    if rank == 0:
        print(json.dumps(said), flush=True)
    dist.destroy_process_group()


def _seconds(size: int, device: torch.device) -> float:
    """Mean seconds of one all-reduce of `size` bytes of fp32."""
    tensor = torch.zeros(size // 4, device=device)
    repeats = max(FEWEST, min(MOST, 16 * 2**20 // size))
    for _ in range(WARM_UPS):
        dist.all_reduce(tensor)
    _finish(device)
    dist.barrier()
    start = time.perf_counter()
    for _ in range(repeats):
        dist.all_reduce(tensor)
    _finish(device)
    return (time.perf_counter() - start) / repeats


def _step_seconds(device: torch.device) -> float:
    """Median seconds of forward, backward and the sum of the gradients, one after the other."""
    width = WIDTH[device.type]
    rows = torch.randn(width, width, device=device)
    weights = [torch.randn(width, width, device=device, requires_grad=True) for _ in range(LAYERS)]
    took = []
    for _ in range(WARM_UPS + STEPS):
        dist.barrier()
        start = time.perf_counter()
        hidden = rows
        for weight in weights:
            hidden = torch.tanh(hidden @ weight / width**0.5)
        for gradient in torch.autograd.grad(hidden.square().mean(), weights):
            dist.all_reduce(gradient)
        _finish(device)
        took.append(time.perf_counter() - start)
    return median(took[WARM_UPS:])


def _step_words(device: torch.device) -> str:
    width = WIDTH[device.type]
    mib = LAYERS * width * width * 4 // 2**20
    return f"{LAYERS} fp32 matrices of {width} × {width} on {width} rows a process, then their gradients, {mib} MiB"


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
    asked = [int(size) for size in sys.argv[5].split(",") if size]
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), asked, sys.argv[6] == "1")
