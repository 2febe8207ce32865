"""Shape + workload + method → bytes on the fullest device, line by line, at the moment that takes most.

The counting itself is states', activations', loss's, moments' and serving's; here it is put into lines with words.
Knows nothing of time, nor of earlier runs.
"""

from portal.planner import overheads
from portal.planner.answer import Line, LineName, Memory
from portal.planner.hardware import GIB, DeviceSpec
from portal.planner.links import least_share
from portal.planner.moments import Step, fullest
from portal.planner.request import Method, Workload
from portal.planner.rules import DEFAULT_RULES, Rules
from portal.planner.serving import Serving, serving
from portal.planner.shapes import ModelShape
from portal.planner.states import States, places, states
from portal.planner.verdict import judge

MIB = 2**20
SHOWN = ("gradients", "activations")
"""Lines that say when they are nothing."""
NODE_DEVICES = 8
"""Devices of a node that offload to its memory, at most."""
Found = tuple[LineName, float, float, float, str]
"""Name, low, expected, high, words."""


def tensor_bytes(memory: Memory) -> int:
    """The expected bytes of tensors alone: what a storage tracker, or CUDA's max_memory_allocated, measures."""
    return sum(line.expected for line in memory.lines if line.name not in ("context", "reserve"))


def estimate(
    shape: ModelShape, workload: Workload, method: Method, device: DeviceSpec, rules: Rules = DEFAULT_RULES
) -> Memory:
    """What the fullest device holds when it holds most.

    `low` to `high` is what may come: an unpadded batch, a family whose layers keep more than Llama's, the allocator.
    """
    gpu = device.kind != "cpu"
    if workload.goal == "infer":
        held = max(
            (states(shape, workload, method, place, foreach=gpu) for place in places(shape, method)),
            key=lambda each: each.weights,
        )
        found = _serving_lines(
            shape, method, held, serving(shape, workload, method, device.repacks_nf4), workload.context
        )
        buffers = 0
    else:
        step = fullest(shape, workload, method, gpu)
        held = step.states
        found = _training_lines(shape, workload, method, step)
        buffers = step.buffers + step.moment.scratch
    found += _rest(found, buffers, method, device, rules)
    lines = tuple(
        Line(name=name, low=int(low), expected=int(expected), high=int(high), words=words)
        for name, low, expected, high, words in found
        if high >= 1 or name in SHOWN
    )
    expected, high = sum(line.expected for line in lines), sum(line.high for line in lines)
    kept = rules.inference_headroom if workload.goal == "infer" else rules.memory_buffer
    usable = int(device.memory_bytes * (1 - kept))
    return Memory(
        lines=lines,
        low=sum(line.low for line in lines),
        expected=expected,
        high=high,
        capacity=device.memory_bytes,
        usable=usable,
        host_bytes=held.host * min(method.devices, NODE_DEVICES),
        verdict=judge(expected, high, usable, device.memory_bytes),
    )


def _weights(shape: ModelShape, method: Method, held: States, more: int = 0, twice: bool = False) -> Found:
    stored = f"{method.quantization} with its scales" if method.quantization != "none" else method.precision
    if shape.stored and method.quantization == shape.stored.layout:
        stored = shape.stored.words
    if more:
        stored += " in bf16, as this CPU's kernels want them"
    if twice:
        stored += ", and as they were"
    shards = method.data if method.zero_stage == 3 else 1
    shared = f", over {method.tensor * method.pipeline * shards} devices" if method.devices > 1 else ""
    if method.tensor * method.pipeline * shards == 1:
        shared = ""
    weights = held.weights + more
    return (
        "weights",
        weights,
        weights,
        weights,
        f"{shape.parameters:,} parameters in {stored}{shared}: {size(weights)}.",
    )


def _serving_lines(shape: ModelShape, method: Method, held: States, served: Serving, context: int) -> list[Found]:
    reading, grown = served.reading, served.grown
    work = max(reading, grown)
    most = reading + grown
    requests = "1 request" if served.rows == 1 else f"{served.rows:,} requests"
    each = shape.kv_elements(1)
    return [
        _weights(shape, method, held, served.repacked),
        (
            "kv_cache",
            served.cache,
            served.cache,
            served.cache,
            f"{requests} × {context:,} tokens × {each:,} numbers in {method.kv_cache}: {size(served.cache)}.",
        ),
        (
            "activations",
            work * 0.5,
            work,
            max(most, work * _unusual(shape)),
            f"{served.tokens:,} tokens of prompts read at once, one layer at a time: {size(work)}.",
        ),
        (
            "logits",
            served.scores / 3,
            served.scores / 3,
            served.scores * 2,
            f"{requests} × {shape.vocab:,} scores of the next token in fp32: {size(served.scores / 3)}.",
        ),
    ]


def _training_lines(shape: ModelShape, workload: Workload, method: Method, step: Step) -> list[Found]:
    held, moment = step.states, step.moment
    trained = f"{held.trainable:,} trained parameters"
    found = [_weights(shape, method, held, twice=workload.preference and workload.goal == "full")]
    if held.lora:
        words = f"{trained} × {held.trained_width} bytes{_shards(method, 3)}: {size(held.lora)}."
        found.append(("lora", held.lora, held.lora, held.lora, words))
    gradients = moment.gradients
    if gradients:
        words = f"{trained} × {held.trained_width} bytes{_shards(method, 2)}, {moment.name}: {size(gradients)}."
    else:
        words = f"None yet {moment.name}, the fullest moment; {size(held.gradients)} at the end of it."
    found.append(("gradients", gradients, gradients, gradients, words))
    moments = "two moments" + (" in 8 bits" if method.optimizer != "adamw" else "")
    copy = " and an fp32 copy" if held.master else ""
    words = f"{moments}{copy} of {trained}{_shards(method, 1)}: {size(held.optimizer)}."
    low = 0 if method.optimizer.startswith("paged") else held.optimizer
    found.append(("optimizer", low, held.optimizer, held.optimizer, words[0].upper() + words[1:]))
    activations = moment.activations
    most = activations * _unusual(shape)
    found.append(
        ("activations", max(0, activations - step.unpadded), activations, most, _kept_words(method, step, workload))
    )
    if moment.logits:
        copies = "and PyTorch's copies of it" if step.loss.copied else "worked on in place"
        words = (
            f"A tile of {step.loss.tokens:,} tokens × {step.loss.words:,} scores, {copies}, and the gradients that "
            f"come of it in fp32, {moment.name}: {size(moment.logits)}."
        )
        found.append(("logits", moment.logits * 0.97, moment.logits, moment.logits * 1.02, words))
    return found


def _kept_words(method: Method, step: Step, workload: Workload) -> str:
    moment, layer, layers = step.moment, step.kept, step.layers
    if not moment.activations:
        return f"All freed {moment.name}, the fullest moment."
    each = step.kept.bytes(step.tokens, workload.context, step.padded) / step.tokens
    pads = ", with the mask of a padded batch" if step.padded and layer.padded_pair else ""
    if method.checkpointing:
        return (
            f"{step.tokens:,} tokens × {layers} layers × {layer.boundary:,} bytes of their inputs, and one layer's "
            f"{each:,.0f} while it is computed again{pads}; {moment.name}: {size(moment.activations)}."
        )
    waiting = f" × {step.place.in_flight} micro batches" if step.place.in_flight > 1 else ""
    return (
        f"{step.tokens:,} tokens × {layers} layers{waiting} × {each:,.0f} bytes that the backward pass needs{pads}; "
        f"{moment.name}: {size(moment.activations)}."
    )


def _rest(found: list[Found], buffers: float, method: Method, device: DeviceSpec, rules: Rules) -> list[Found]:
    """Buffers, the runtime itself, and what the allocator can't reuse."""
    tensors = sum(expected for _, _, expected, _, _ in found)
    highest = sum(high for _, _, _, high, _ in found)
    words = []
    own = overheads.library_bytes(device)
    if buffers:
        words.append(f"{size(buffers)} for gradients and parameters on their way and the optimizer's step")
    share = least_share(method.devices, rules)
    if share * tensors > buffers:
        buffers = share * tensors
        words = [f"{share:.0%} for collectives between {method.devices} devices (the rule's share): {size(buffers)}"]
    if own:
        words.append(f"{size(own)} for matrix products")
    rest: list[Found] = []
    if buffers + own:
        rest.append(("buffers", buffers * 0.8 + own, buffers + own, buffers * 1.1 + own, "; ".join(words) + "."))
        tensors, highest = tensors + buffers + own, highest + buffers * 1.1 + own
    low, expected, high = overheads.context_bytes(device)
    rest.append(("context", low, expected, high, f"What {device.title} has in use before the first tensor."))
    less, usual, more = overheads.SLACK[device.kind]
    reserve = tensors * usual
    rest.append(
        (
            "reserve",
            tensors * less,
            reserve,
            highest * more,
            f"{usual:.0%} that the allocator can't reuse: {size(reserve)}.",
        )
    )
    return rest


def _shards(method: Method, stage: int) -> str:
    return f", over {method.data} replicas" if method.zero_stage >= stage and method.data > 1 else ""


def _unusual(shape: ModelShape) -> float:
    """How far a layer may keep more than counted: the count is exact for Llama's, near for what differs from it."""
    exotic = (
        shape.assumed
        or shape.norm != "rms"
        or any(
            layer.mlp.experts or not layer.mlp.gated or layer.attention.kv_rank is not None for layer in shape.layers
        )
    )
    return 1.2 if exotic else 1.03


def size(bytes_: float) -> str:
    """'1.24 GiB', '310 MiB'."""
    return f"{bytes_ / GIB:.2f} GiB" if bytes_ >= GIB / 10 else f"{bytes_ / MIB:.1f} MiB"
