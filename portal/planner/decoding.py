"""Seconds of serving: to read a prompt (TTFT) and per generated token (TPOT). Knows nothing of queues or traffic.

Decoding reads every weight and every running request's KV cache once a token, so bandwidth bounds it until many
requests share the weights (Pope et al. 2022, arXiv:2211.05102). The figures are of an engine that batches requests
and replays captured graphs; a plain `generate` loop adds its launches, which calibration sees.
"""

from dataclasses import dataclass

from portal.planner.answer import Share
from portal.planner.hardware import DeviceSpec
from portal.planner.links import Wiring, all_reduce_s, least_share, send_s
from portal.planner.quantities import amount, number, seconds, size
from portal.planner.request import Method, Workload
from portal.planner.rules import Rules
from portal.planner.shapes import ModelShape
from portal.planner.states import WIDTH
from portal.planner.work import Work, work

PREFILL_SHARE = 0.50
"""Share of peak that reading a prompt reaches."""
BANDWIDTH_SHARE = {"none": 0.70, "fp8": 0.60, "int8": 0.25, "awq": 0.42, "gptq": 0.42, "nf4": 0.25}
"""Share of memory bandwidth at which weights arrive, by how they are stored. Llama-2-7B on A100 with gpt-fast: 1.40
TB/s of 2.04 in bf16, 0.86 with 4-bit groups; bitsandbytes' int8 and nf4 kernels unpack more slowly (assumed)."""
KV_WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
"""Bytes of one element of the KV cache."""
LAYER_S = {"cuda": 30e-6, "rocm": 30e-6, "cpu": 1.0e-3}
"""Least time of one layer: the kernels of a captured graph one after another; on a CPU PyTorch's own calls."""


@dataclass(frozen=True)
class Pace:
    """Seconds until the first token of a request, and per token of every running request, part by part."""

    ttft_s: float
    shares: tuple[Share, ...]


def pace(shape: ModelShape, workload: Workload, method: Method, wiring: Wiring, rules: Rules) -> Pace:
    """`workload.concurrency` requests with a full context each, shared evenly by the `method.data` replicas.

    A pipeline works on as many groups of requests as it has stages, so a token passes every stage and each stage sees
    its share of the rows.
    """
    device, stages = wiring.device, method.pipeline
    token = work(shape, workload, method)
    split = method.tensor * stages
    rows = max(1, -(-workload.concurrency // (method.data * stages)))
    peak = _peak(device, method)
    on_cpu = device.kind == "cpu"

    share = BANDWIDTH_SHARE["none" if on_cpu else method.quantization]
    held = _read_bytes(token, method, rows, unpacked=on_cpu) / method.tensor
    cache = rows * token.kv_elements * KV_WIDTH[method.kv_cache] / min(method.tensor, token.kv_parts)
    reading = held / (device.bandwidth * share) + cache / (device.bandwidth * BANDWIDTH_SHARE["none"])
    flops = rows * (2 * (token.linear + token.head) + token.decode_flops) / method.tensor
    arithmetic = flops / (peak * PREFILL_SHARE)
    launches = LAYER_S[device.kind] * token.depth
    busy = max(arithmetic, reading) + launches if on_cpu else max(arithmetic, reading, launches)
    least = f"; launches take {seconds(launches)}" if on_cpu or launches > reading else ""
    shares = [
        Share(
            name="compute",
            seconds=arithmetic,
            words=f"2 × {number(token.linear + token.head)} parameters × {rows} rows, and attention: "
            f"{amount(flops)}FLOP a device at {amount(peak)}FLOP/s × {PREFILL_SHARE}.",
        ),
        Share(
            name="memory",
            seconds=busy - arithmetic,
            words=f"{size(held)} of weights a device at {size(device.bandwidth)}/s × {share}, and {size(cache)} of KV "
            f"cache: {seconds(reading)}{least}. The arithmetic runs meanwhile; this is the rest.",
        ),
    ]
    if split > 1:
        talking, words = _talk(shape, method, token, wiring, rows)
        rule = least_share(split, rules)
        if (floor := rule / (1 - rule) * busy) > talking:
            talking, words = floor, f"{words} The rule's {rule:.0%} at {split} devices is more."
        shares.append(Share(name="communication", seconds=talking, words=words))
    return Pace(_prefill(shape, workload, method, token, wiring, peak), tuple(shares))


def _peak(device: DeviceSpec, method: Method) -> float:
    """FLOP/s in the number type that the products run in; other quantized weights are unpacked to the precision."""
    kind = "fp8" if method.quantization == "fp8" and device.has("fp8") else method.precision
    return device.flops.get(kind) or device.flops["fp32"]


def _read_bytes(token: Work, method: Method, rows: int, *, unpacked: bool) -> float:
    """Weights that a token of `rows` requests moves through memory, the whole model's. `unpacked`: quantized ones are
    written to memory at full width and read again, as on a CPU."""
    stored = token.read_bytes(rows)
    if unpacked and method.quantization != "none":
        return stored + 2 * token.plain_bytes * stored / token.weight_bytes
    return stored


def _talk(shape: ModelShape, method: Method, token: Work, wiring: Wiring, rows: int) -> tuple[float, str]:
    """(seconds, words) for `rows` tokens through the whole model: two all-reduces a layer (Megatron-LM,
    arXiv:1909.08053, section 3), and a hand-over between stages."""
    activations = rows * shape.hidden * WIDTH[method.precision]
    total, parts = 0.0, []
    if method.tensor > 1:
        link = wiring.link(method.tensor, 1)
        total += 2 * token.depth * all_reduce_s(activations, method.tensor, link)
        parts.append(f"{2 * token.depth} all-reduces of {size(activations)} over {link.title}: {seconds(total)}.")
    if method.pipeline > 1:
        link = wiring.link(method.pipeline, method.tensor)
        handed = (method.pipeline - 1) * send_s(activations, link)
        total += handed
        parts.append(f"{method.pipeline - 1} hand-overs of {size(activations)} over {link.title}: {seconds(handed)}.")
    return total, " ".join(parts)


def _prefill(shape: ModelShape, workload: Workload, method: Method, token: Work, wiring: Wiring, peak: float) -> float:
    """TTFT of one request alone: its prompt of `context` tokens passes every stage."""
    device, tokens = wiring.device, workload.context
    flops = tokens * 2 * token.linear + 2 * token.head + token.attention_flops
    arithmetic = flops / method.tensor / (peak * PREFILL_SHARE)
    held = _read_bytes(token, method, tokens, unpacked=device.kind == "cpu") / method.tensor
    reading = held / (device.bandwidth * BANDWIDTH_SHARE["none"])
    return max(arithmetic, reading, LAYER_S[device.kind] * token.depth) + _talk(shape, method, token, wiring, tokens)[0]
