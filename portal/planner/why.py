"""A plan in words: its title, what it trades, and what to mind. Compares a way with the one a step plainer.

Knows nothing of ranking.
"""

from collections.abc import Iterator

from portal.planner.hardware import GIB
from portal.planner.request import Method, Workload
from portal.planner.search import Search, Way
from portal.planner.trained import whole

GOALS = {"infer": "Serve", "lora": "LoRA", "qlora": "QLoRA", "full": "Full fine-tune", "partial": "Partial"}
HUGE_MODEL = 100e9
"""Parameters from which the guide asks for a fast interconnect."""
QUANTIZED = {
    "nf4": "4-bit NormalFloat weights (QLoRA, arXiv:2305.14314)",
    "int8": "8-bit weights (LLM.int8, arXiv:2208.07339)",
    "awq": "4-bit AWQ or GPTQ weights (arXiv:2306.00978, arXiv:2210.17323), which need a quantized checkpoint",
    "gptq": "4-bit GPTQ weights (arXiv:2210.17323), which need a quantized checkpoint",
    "fp8": "8-bit floating-point weights",
}


def title(way: Way, workload: Workload) -> str:
    """In a few words."""
    method = way.method
    parts = [f"{GOALS[workload.kind]} {method.quantization if method.quantization != 'none' else method.precision}"]
    if workload.goal != "infer":
        if method.zero_stage:
            parts.append(f"ZeRO {method.zero_stage}")
        if method.offload_parameters:
            parts.append("offloaded")
        elif method.offload_optimizer:
            parts.append("optimizer offloaded")
        parts.append(f"micro batch {method.micro_batch}")
        if method.checkpointing:
            parts.append("checkpointed")
    parts += [f"{name} {degree}" for name, degree in (("TP", method.tensor), ("PP", method.pipeline)) if degree > 1]
    return " · ".join([*parts, f"{method.devices} × {way.device.title}"])


def reasons(way: Way, search: Search) -> tuple[str, ...]:
    """What the plan trades, a sentence each; bytes and seconds by comparison with the plainer method."""
    return tuple(_reasons(way, search))


def _reasons(way: Way, search: Search) -> Iterator[str]:
    method, goal = way.method, search.workload.goal
    if search.workload.layers:
        trained = sum(tensor.parameters for tensor in whole(search.shape, search.workload.layers))
        yield (
            f"Trains {trained:,} of {search.shape.parameters:,} parameters, those of {search.workload.layers}: "
            "gradients and optimizer states are kept for these alone."
        )
    if method.quantization != "none":
        saved = _saved(way, search, quantization="none")
        lies = search.shape.stored
        uses = f"Serves the checkpoint as it lies ({lies.words})" if lies else f"Uses {QUANTIZED[method.quantization]}"
        yield f"{uses}: {saved} less on each device, at some loss of quality."
    if method.checkpointing:
        plain = _other(way, search, checkpointing=False)
        slower = way.speed.step_s / plain.speed.step_s - 1
        yield (
            f"Recomputes activations in the backward pass: {_bytes(plain, way)} less on each device, "
            f"for about {slower:.0%} more time."
        )
    if method.zero_stage and method.data > 1:
        what = {
            1: "optimizer states",
            2: "gradients and optimizer states",
            3: "weights, gradients and optimizer states",
        }
        saved = _saved(way, search, zero_stage=0, offload_optimizer=False, offload_parameters=False)
        sharded = f"ZeRO {method.zero_stage} shards {what[method.zero_stage]} over {method.data} replicas"
        yield f"{sharded}: {saved} less on each."
    if method.offload_optimizer or method.offload_parameters:
        what_moves = "Weights and optimizer states" if method.offload_parameters else "Optimizer states"
        yield (
            f"{what_moves} live in host memory ({way.memory.host_bytes / GIB:.1f} GiB a node) and cross the bus each "
            "step: slower, but it fits."
        )
    if method.optimizer != "adamw":
        saved = _saved(way, search, optimizer="adamw")
        yield f"An 8-bit optimizer keeps its states in a quarter of the bytes: {saved} less."
    if method.tensor > 1:
        yield (
            f"Splits each layer over {method.tensor} devices of a node: every device holds 1/{method.tensor} of the "
            "weights, and activations cross the links twice a layer."
        )
    if method.pipeline > 1:
        flight = f"{method.accumulation} micro batches in flight keep the bubble small"
        yield (
            f"Splits the {search.shape.depth} layers into {method.pipeline} stages; "
            f"{'each token passes them in turn' if goal == 'infer' else flight}."
        )
    if goal == "infer" and method.data > 1:
        each = -(-search.workload.concurrency // method.data)
        yield f"{method.data} replicas share the requests, {each} at once each."
    if goal != "infer" and method.accumulation > 1:
        yield (
            f"Accumulates {method.accumulation} micro batches of {method.micro_batch} for the global batch of "
            f"{search.workload.batch}."
        )
    if 0.01 <= way.speed.communication_share <= 1 - search.rules.utilisation_target:
        yield f"Communication takes {way.speed.communication_share:.0%} of the time."
    if method.devices == 1 and not method.offload_optimizer and not method.offload_parameters:
        yield "One device and nothing sharded: the simplest way, with nothing to communicate."
    if goal != "infer" and method.data > 1 and not method.zero_stage:
        yield f"{method.data} replicas each hold the whole model and average their gradients: plain data parallelism."


def warnings(way: Way, search: Search) -> tuple[str, ...]:
    """Rules of the guide that the place doesn't meet, and what the numbers rest on."""
    return tuple(_warnings(way, search))


def _warnings(way: Way, search: Search) -> Iterator[str]:
    rules, group, shape = search.rules, way.spot.group, search.shape
    disk = group.disk_bandwidth
    if disk is not None and disk < rules.disk_bandwidth:
        width = 4 if shape.dtype in ("float32", "fp32") else 2
        load_s = shape.parameters * width / disk
        yield (
            f"The disk reads {disk / 1e9:.2f} GB/s, below the {rules.disk_bandwidth / 1e9:g} GB/s of NVMe: loading the "
            f"weights takes about {load_s:,.0f} s."
        )
    fabric = search.fleet.fabric
    if (
        way.spot.nodes > 1
        and search.workload.goal != "infer"
        and shape.parameters >= HUGE_MODEL
        and fabric is not None
        and fabric.bandwidth < rules.fabric_bandwidth
    ):
        yield (
            f"{fabric.title} carries {fabric.bandwidth * 8 / 1e9:.0f} Gbps; a model of {shape.parameters / 1e9:.0f} "
            f"billion parameters wants at least {rules.fabric_bandwidth * 8 / 1e9:.0f}."
        )
    if way.memory.host_bytes and not group.ram_bytes:
        yield f"Offloading takes {way.memory.host_bytes / GIB:,.0f} GiB of host memory on each node."
    if way.speed.communication_share > 1 - rules.utilisation_target:
        yield (
            f"Communication alone takes {way.speed.communication_share:.0%} of the time, so devices can't reach the "
            f"utilisation target of {rules.utilisation_target:.0%}; a faster link or fewer devices would."
        )
    if way.method.precision != "fp32" and way.device.kind == "cpu":
        yield f"Most CPUs compute {way.method.precision} many times slower than fp32."
    if shape.assumed:
        yield shape.assumed


def _other(way: Way, search: Search, **changes: object) -> Way:
    """The same way with another choice."""
    method: Method = way.method.model_copy(update=changes)
    return search.judge(method, way.spot)


def _saved(way: Way, search: Search, **plainer: object) -> str:
    return _bytes(_other(way, search, **plainer), way)


def _bytes(plain: Way, way: Way) -> str:
    return f"{max(0, plain.memory.expected - way.memory.expected) / GIB:.1f} GiB"
