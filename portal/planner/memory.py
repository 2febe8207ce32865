"""Shape + workload + method → bytes on the fullest device, line by line, at the moment that takes most.

Each line is worked out from shapes; what can't be is a band. Knows nothing of time, nor of earlier runs.
"""

from portal.planner.answer import Line, LineName, Memory
from portal.planner.hardware import DeviceSpec
from portal.planner.request import Method, Workload
from portal.planner.rules import DEFAULT_RULES, Rules
from portal.planner.shapes import ModelShape
from portal.planner.states import WIDTH, states
from portal.planner.verdict import judge

MIB = 2**20
GIB = 2**30
CONTEXT = {"cuda": 500 * MIB, "rocm": 500 * MIB, "cpu": 300 * MIB}


def tensor_bytes(memory: Memory) -> int:
    """The expected bytes of tensors alone: what a storage tracker, or CUDA's max_memory_allocated, measures."""
    return sum(line.expected for line in memory.lines if line.name not in ("context", "reserve"))


def estimate(
    shape: ModelShape, workload: Workload, method: Method, device: DeviceSpec, rules: Rules = DEFAULT_RULES
) -> Memory:
    """What the fullest device holds when it holds most."""
    held = states(shape, workload, method)
    width = WIDTH[method.precision]
    layer = max(shape.layers, key=lambda each: each.parameters)
    attention, mlp = layer.attention, layer.mlp
    queries = attention.heads * attention.head_dim
    depth = -(-shape.depth // method.pipeline)
    found: list[tuple[LineName, int, str]] = [
        ("weights", held.weights, f"{shape.parameters:,} parameters: {_gib(held.weights)}.")
    ]
    if workload.goal == "infer":
        rows = -(-workload.concurrency // method.data)
        cache = (
            rows
            * shape.kv_elements(workload.context)
            * {"int8": 1}.get(method.kv_cache, 2 if method.kv_cache != "fp32" else 4)
        )
        cache = -(-cache // (method.tensor * method.pipeline))
        found.append(("kv_cache", cache, f"{rows} × {workload.context:,} tokens: {_gib(cache)}."))
        tokens = min(rows * workload.context, 8192)
        live = tokens * (3 * shape.hidden + 3 * mlp.active_width // method.tensor) * width
        found.append(("activations", live, f"{tokens:,} tokens read at once: {_gib(live)}."))
        found.append(("logits", rows * shape.vocab * 4, f"{rows} × {shape.vocab:,} scores."))
    else:
        tokens = method.micro_batch * workload.context
        full = workload.goal == "full"
        per_token = (
            (6 if full else 4) * shape.hidden * (1 if width == 4 else 2)
            + (2 * queries + 2 * attention.kv_heads * attention.head_dim + 4 * mlp.active_width) // method.tensor
        ) * width
        if method.attention == "eager":
            per_token += 2 * attention.heads * workload.context * width // method.tensor
        saved = tokens * (per_token + depth * shape.hidden * width if method.checkpointing else depth * per_token)
        logits = min(tokens, 4096) * min(shape.vocab, 32768) * 4 * 5 // method.tensor
        found += [
            ("lora", held.lora, f"{held.trainable:,} parameters: {_gib(held.lora)}."),
            ("gradients", held.gradients, f"{held.trainable:,} × {held.trained_width} bytes: {_gib(held.gradients)}."),
            (
                "optimizer",
                held.optimizer,
                f"{method.optimizer} of {held.trainable:,} parameters: {_gib(held.optimizer)}.",
            ),
            ("activations", saved, f"{tokens:,} tokens × {depth} layers: {_gib(saved)}."),
            ("logits", logits, f"{tokens:,} tokens × {shape.vocab:,} scores: {_gib(logits)}."),
        ]
        if method.zero_stage == 3:
            gathered = 2 * shape.layer_parameters * width // method.tensor
            found.append(("buffers", gathered, f"The largest layer, gathered twice: {_gib(gathered)}."))
    sofar = sum(size for _, size, _ in found)
    found.append(("context", CONTEXT[device.kind], f"What {device.title} takes before the first tensor."))
    found.append(("reserve", sofar // 20, "5% for what the allocator can't reuse."))
    lines = tuple(
        Line(name=name, low=int(size * 0.9), expected=size, high=int(size * 1.1), words=words)
        for name, size, words in found
        if size
    )
    expected = sum(line.expected for line in lines)
    high = sum(line.high for line in lines)
    kept = rules.inference_headroom if workload.goal == "infer" else rules.memory_buffer
    usable = int(device.memory_bytes * (1 - kept))
    return Memory(
        lines=lines,
        low=sum(line.low for line in lines),
        expected=expected,
        high=high,
        capacity=device.memory_bytes,
        usable=usable,
        host_bytes=held.host * min(method.devices, 8),
        verdict=judge(expected, high, usable, device.memory_bytes),
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
