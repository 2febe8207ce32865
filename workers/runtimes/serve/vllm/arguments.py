"""The command that starts vLLM's server for a launch. Pure: starts nothing.

Source: vLLM's documentation, "vllm serve" and "Online quantization" (0.20 and later). Knows nothing of processes.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from workers.contract.launch import LaunchSpec
from workers.contract.order import Order
from workers.runtimes.base import invalid

PROGRAM = str(Path(sys.executable).with_name("vllm"))
"""Of this environment, which need not be on the PATH."""
DTYPES = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
QUANTIZATIONS: dict[str, list[str]] = {
    "none": [],
    "nf4": ["--quantization", "bitsandbytes"],
    "fp8": ["--quantization", "fp8_per_tensor"],
}
"""Done while loading. Of a checkpoint that is quantized already (GPTQ, AWQ …) vLLM reads the method in its config."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters, that vLLM makes room for."""


@dataclass(frozen=True)
class Place:
    """What is known once the node is: local folders or a hub's name at a revision, a free port, tokens of context, the
    share of a GPU's memory to take (None: vLLM's own), the adapter's rank."""

    model: str
    port: int
    context_length: int
    revision: str | None = None
    memory_share: float | None = None
    adapter: str | None = None
    adapter_rank: int = 16


def arguments(order: Order, spec: LaunchSpec, place: Place) -> list[str]:
    """vLLM answers on this machine alone, under the name that the launch has.

    Raises RunFailed for what vLLM can't load.
    """
    if spec.quantization not in QUANTIZATIONS:
        able = " or ".join(QUANTIZATIONS)
        raise invalid(f"quantization: vLLM does not load {spec.quantization}; use {able}, or the engine transformers.")
    if order.model is None:
        raise invalid("model: the order names none, and a launch needs one.")
    command = [
        PROGRAM, "serve", place.model,
        "--host", "127.0.0.1",
        "--port", str(place.port),
        "--served-model-name", order.model.name,
        "--max-model-len", str(place.context_length),
        "--max-num-seqs", str(spec.max_concurrency),
        "--dtype", DTYPES[spec.precision],
        "--tensor-parallel-size", str(max(1, len(order.devices))),
        "--seed", str(spec.seed),
        "--generation-config", "vllm",  # a model's own would add penalties and a top-k that nobody asked for
        "--disable-uvicorn-access-log",
        *QUANTIZATIONS[spec.quantization],
    ]  # fmt: skip
    if order.team is not None:
        command += ["--distributed-executor-backend", "ray", "--pipeline-parallel-size", str(order.team.nodes)]
    if place.memory_share is not None:
        command += ["--gpu-memory-utilization", f"{place.memory_share:.3f}"]
    if place.revision is not None:
        command += ["--revision", place.revision, "--code-revision", place.revision]
    if order.model.trust_remote_code:
        command.append("--trust-remote-code")
    if order.adapter is not None and place.adapter is not None:
        rank = next((each for each in RANKS if each >= place.adapter_rank), None)
        if rank is None:
            raise invalid(f"adapter: its rank {place.adapter_rank} is beyond vLLM's {RANKS[-1]}; use transformers.")
        named = f"{order.adapter.name}={place.adapter}"
        command += ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", named]
    return command
