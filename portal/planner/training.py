"""Seconds of one optimizer step: compute, memory, communication, bubble and offload. Knows nothing of bytes that fit.

A roofline (Williams et al. 2009): each micro batch takes the longest of its arithmetic, its weights' way through
memory and the host's launches. What nobody can derive is a named share below; calibration corrects the product.
"""

from dataclasses import dataclass

from portal.planner.answer import Share
from portal.planner.hardware import DeviceSpec
from portal.planner.links import Wiring, all_gather_s, all_reduce_s, bubble_share, least_share, send_s
from portal.planner.quantities import amount, number, seconds, size
from portal.planner.request import Method, Workload
from portal.planner.rules import Rules
from portal.planner.shapes import ModelShape
from portal.planner.states import WIDTH
from portal.planner.work import Work, work

MATMUL_SHARE = 0.775
"""Share of a data sheet's FLOP/s that large products reach."""
FLOPS_PER_BYTE = 350
"""The kernels between the products move about a byte of memory for so many FLOPs of theirs. Together with the share
above, steps of 7 to 175 billion parameters run at 58% of an A100's 16-bit peak before they communicate, and at 47% of
an H100's, whose arithmetic outgrew its memory. Published, communication included: 45% for GPT-3 175B on 1,024 A100
(arXiv:2104.04473), 53 to 64% on A100 and 40 to 46% on H100 for 7 to 70 billion (MosaicML's LLM Foundry)."""
ADAPTER_SHARE = 0.8
"""What LoRA's small products, dropouts and casts leave of that: 40% on H100 (NeMo AutoModel), 45% on A100 with
recomputation (Qwen's README)."""
BANDWIDTH_SHARE = 0.70
"""Share of a data sheet's memory bandwidth that streaming kernels reach (gpt-fast: 1.4 of 2.0 TB/s on A100)."""
LAUNCH_S = {"cuda": 0.6e-3, "rocm": 0.6e-3, "cpu": 1.0e-3}
"""Host time of one layer and pass in PyTorch without graphs; a backward counts two passes, adapters double it."""
ZERO_3_LAUNCHES = 4
"""ZeRO 3's hooks fetch and release each module's weights, which multiplies that (Qwen's README: 0.5 s a micro batch
of 256 tokens through 32 layers on two A100)."""
OVERLAP = 0.5
"""Share of the compute that gradient and weight traffic of ZeRO or DDP can hide behind."""
NEVER_HIDDEN = 0.1
"""Share of that traffic which shows all the same: first and last buckets."""
UPDATE_BYTES = 28
"""Read and written per parameter by mixed-precision Adam: three 4-byte states both ways, gradient and weight."""
EIGHT_BIT_UPDATE_BYTES = 10
"""The same with 8-bit moments and no 32-bit copy of the weight."""
HOST_BANDWIDTH = 100e9
"""Bytes per second of RAM that the optimizer on the host reaches (DeepSpeed's CPU Adam), a node."""
UNPACKED_BYTES = 4
"""Written and read again per weight that is unpacked to 16 bits before its product."""
EAGER_BYTES = 16
"""Moved per score and pass by unfused attention: product, mask, 32-bit softmax and cast, written and read."""


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step, and the tokens it trains over all devices."""

    shares: tuple[Share, ...]
    tokens: int


def utilisation(device: DeviceSpec, peak: float, *, adapters: bool) -> float:
    """Share of `peak` FLOP/s that a training step's kernels reach by themselves."""
    share = MATMUL_SHARE / (1 + MATMUL_SHARE * peak / (FLOPS_PER_BYTE * device.bandwidth))
    return share * (ADAPTER_SHARE if adapters else 1)


def step(shape: ModelShape, workload: Workload, method: Method, wiring: Wiring, rules: Rules) -> Step:
    """One optimizer step of `method.accumulation` micro batches on every device."""
    device, full = wiring.device, workload.goal == "full"
    token = work(shape, workload, method)
    split, count = method.tensor * method.pipeline, method.accumulation
    sequences = method.micro_batch * workload.sequences
    tokens = sequences * workload.context
    peak = device.flops.get(method.precision) or device.flops["fp32"]
    share = utilisation(device, peak, adapters=not full)
    bandwidth = device.bandwidth * BANDWIDTH_SHARE

    flops = _flops(method, token, tokens, sequences) / split
    if workload.preference:
        flops += _reference_flops(token, tokens, sequences) / split
    arithmetic = flops / (peak * share)
    passes = (3 if full else 2) + method.checkpointing + workload.preference
    streaming = token.read_bytes(tokens) * passes / split / bandwidth
    launches = _launches(token, method, full, device.kind)
    micro = arithmetic + launches if device.kind == "cpu" else max(arithmetic, streaming, launches)
    beside, parts = _beside(method, token, sequences, bandwidth)
    update = _update_bytes(method, token) / bandwidth
    compute, memory = arithmetic * count, (micro - arithmetic + beside) * count + update
    if micro > arithmetic:
        bound = (
            "weights to pass through memory" if micro == streaming else f"the host's launches of {seconds(launches)}"
        )
        parts.append(f"{seconds(micro - arithmetic)} more a micro batch for {bound}")
    if update:
        parts.append(f"the optimizer's update, {seconds(update)}")
    shares = [
        Share(
            name="compute",
            seconds=compute,
            words=f"{_factor(method, token):.3g} × {number(token.linear)} parameters × {tokens * count:,} tokens, with "
            f"attention{', the reference' if workload.preference else ''} and head {amount(flops * count)}FLOP a "
            f"device, at {amount(peak)}FLOP/s × {share:.2f}.",
        ),
        Share(name="memory", seconds=memory, words=f"Beside that: {'; '.join(parts) or 'nothing'}."),
    ]

    busy = compute + memory
    bubble = 0.0
    if method.pipeline > 1:
        waiting = bubble_share(method.pipeline, count)
        bubble = busy * waiting / (1 - waiting)
    offload, offload_words = _offload(method, token, wiring, OVERLAP * busy)
    if method.devices > 1:
        hideable = OVERLAP * busy * (1 if method.zero_stage >= 2 else 1 / count)
        communication, words = _communication(shape, workload, method, token, wiring, hideable)
        least = least_share(method.devices, rules)
        floor = least / (1 - least) * (busy + bubble + offload)
        if floor > communication:
            communication, words = floor, f"{words} The rule's {least:.0%} at {method.devices} devices is more."
        shares.append(Share(name="communication", seconds=communication, words=words))
    if method.pipeline > 1:
        stages = method.pipeline
        words = (
            f"({stages} - 1) / ({count} + {stages} - 1) of compute and memory: {stages} stages, {count} micro batches."
        )
        shares.append(Share(name="bubble", seconds=bubble, words=words))
    if offload_words:
        shares.append(Share(name="offload", seconds=offload, words=offload_words))
    return Step(tuple(shares), tokens * count * method.data)


def _factor(method: Method, token: Work) -> float:
    """FLOPs of a parameter and token: 2 forward, 2 where a gradient passes, 2 where it is trained itself, and there
    2 more when computed again (Chen et al. 2016)."""
    return 2 + 2 * token.reach + 2 * token.tuned / token.linear + 2 * token.reach * method.checkpointing


def _flops(method: Method, token: Work, tokens: int, sequences: int) -> float:
    """Of one micro batch on the whole model. Recomputing runs the layers again, not the head; FlashAttention's
    backward computes the scores again by itself."""
    linear = token.linear * _factor(method, token) + token.adapters * (6 + 2 * method.checkpointing)
    head = token.head * (6 if token.tuned_head else 4)
    back = 2 + (0.5 if method.attention != "eager" else 0) + method.checkpointing
    return tokens * (linear + head) + sequences * (1 + back * token.reach) * token.attention_flops


def _reference_flops(token: Work, tokens: int, sequences: int) -> float:
    """Of preference tuning's pass through the model as it was (arXiv:2305.18290), forward only."""
    return 2 * tokens * (token.linear + token.head) + sequences * token.attention_flops


def _launches(token: Work, method: Method, full: bool, kind: str) -> float:
    """Host seconds of one micro batch's layers."""
    times = (3 + method.checkpointing) * (1 if full else 2) * (ZERO_3_LAUNCHES if method.zero_stage == 3 else 1)
    return LAUNCH_S[kind] * times * -(-token.depth // method.pipeline)


def _beside(method: Method, token: Work, sequences: int, bandwidth: float) -> tuple[float, list[str]]:
    """(seconds, words) of a micro batch's memory traffic before and after its products: unpacking, eager scores."""
    split, passes = method.tensor * method.pipeline, 2 + method.checkpointing
    total, words = 0.0, []
    if method.quantization != "none":
        unpacking = passes * (token.weight_bytes + UNPACKED_BYTES * token.linear) / split / bandwidth
        total += unpacking
        words.append(f"{method.quantization} weights unpacked {passes} × a micro batch, {seconds(unpacking)}")
    if method.attention == "eager":
        scores = sequences * token.scores
        moving = (passes + 1) * scores * EAGER_BYTES / split / bandwidth
        total += moving
        words.append(f"eager attention's {number(scores)} scores {passes + 1} × a micro batch, {seconds(moving)}")
    return total, words


def _update_bytes(method: Method, token: Work) -> float:
    """Bytes that the optimizer moves in device memory, a step."""
    if method.offload_optimizer:
        return 0.0
    shards = method.tensor * method.pipeline * (method.data if method.zero_stage else 1)
    return token.trained * (UPDATE_BYTES if method.optimizer == "adamw" else EIGHT_BIT_UPDATE_BYTES) / shards


def _communication(
    shape: ModelShape, workload: Workload, method: Method, token: Work, wiring: Wiring, hideable: float
) -> tuple[float, str]:
    """(seconds that show, words), a step, of which up to `hideable` seconds hide behind compute.

    Data parallel: one all-reduce of gradients a step, or with ZeRO 1 a reduce-scatter and an all-gather, the same
    volume; ZeRO 2 scatters every micro batch; ZeRO 3 gathers weights twice a micro batch besides, 1.5 × the volume
    (Rajbhandari et al. 2020, section 7). Tensor parallel, never hidden: two all-reduces of activations a layer
    forward, two backward, two more when recomputing (Megatron-LM, arXiv:1909.08053, section 3). Pipeline: a micro
    batch's activations to the next stage and their gradients back.
    """
    width, count = WIDTH[method.precision], method.accumulation
    split = method.tensor * method.pipeline
    behind, shown, parts = 0.0, 0.0, []
    if method.data > 1:
        link = wiring.link(method.data, method.tensor)
        gradients = token.trained * width / split
        scatter = all_gather_s(gradients, method.data, link)
        if method.zero_stage == 3:
            held = token.weight_bytes / split
            behind = count * (2 * all_gather_s(held, method.data, link) + scatter)
            what = (
                f"ZeRO 3 gathers {size(held)} of weights twice and scatters {size(gradients)} of gradients, {count} ×"
            )
        elif method.zero_stage == 2:
            behind = (count + 1) * scatter
            what = f"ZeRO 2 scatters {size(gradients)} of gradients {count} × and gathers weights once"
        else:
            behind = all_reduce_s(gradients, method.data, link)
            what = f"2 × ({method.data} - 1) / {method.data} × {size(gradients)} of gradients"
        parts.append(f"{what} over {link.title} at {size(link.bandwidth)}/s: {seconds(behind)}.")
    activations = method.micro_batch * workload.sequences * workload.context * shape.hidden * width
    if method.tensor > 1:
        link = wiring.link(method.tensor, 1)
        times = (4 + 2 * method.checkpointing) * -(-token.depth // method.pipeline) * count
        shown = times * all_reduce_s(activations, method.tensor, link)
        parts.append(
            f"{times:,} all-reduces of {size(activations)} between {method.tensor} tensor-parallel devices over "
            f"{link.title}: {seconds(shown)}."
        )
    if method.pipeline > 1:
        link = wiring.link(method.pipeline, method.tensor * method.data)
        sent = 2 * count * send_s(activations, link)
        behind += sent
        parts.append(f"{size(activations)} to the next stage and back {count} × over {link.title}: {seconds(sent)}.")
    hidden = min(hideable, (1 - NEVER_HIDDEN) * behind)
    if hidden:
        parts.append(f"{seconds(hidden)} of it behind compute.")
    return behind - hidden + shown, " ".join(parts)


def _offload(method: Method, token: Work, wiring: Wiring, hideable: float) -> tuple[float, str]:
    """(seconds, words): gradients to the host and weights back, the update there, and weights in for each pass
    (ZeRO-Infinity, arXiv:2104.07857, section 4)."""
    split, width, count = method.tensor * method.pipeline, WIDTH[method.precision], method.accumulation
    bus = wiring.device.host_bandwidth
    total, parts = 0.0, []
    if method.offload_optimizer:
        shard = token.trained / split / (method.data if method.zero_stage else 1)
        moving = shard * width * (count + 1 if method.zero_stage >= 2 else 2) / bus
        updating = shard * min(method.devices, wiring.devices) * UPDATE_BYTES / HOST_BANDWIDTH
        total += moving + updating
        parts.append(
            f"{size(shard * width)} of gradients out and weights back at {size(bus)}/s: {seconds(moving)}; "
            f"the update on the host: {seconds(updating)}."
        )
    if method.offload_parameters:
        held = token.weight_bytes / split / method.data
        moving = 2 * count * held / bus
        total += max(moving - hideable, NEVER_HIDDEN * moving)
        parts.append(
            f"{size(held)} of weights in twice for each of {count} micro batches: {seconds(moving)}, partly hidden."
        )
    return total, " ".join(parts)
