"""The inverse questions: the largest that fits, the smallest hardware that would do, and what to change when nothing
does. Each answer is tried with the same arithmetic as a plan. Knows nothing of ranking.
"""

from collections.abc import Callable, Iterator
from functools import cache

from portal.planner import clusters
from portal.planner.answer import Largest
from portal.planner.devices import DEVICES
from portal.planner.hardware import Fleet
from portal.planner.placement import impossible, spots
from portal.planner.quantities import of
from portal.planner.request import Fixed, Method, Workload
from portal.planner.search import Search, Way

MOST_CONCURRENCY = 4096
MOST_MICRO_BATCH = 1024
DEVICES_TRIED = (1, 2, 4, 8)


def largest(search: Search, best: Way | None) -> tuple[Largest, ...]:
    """The largest context, micro batch or concurrency by the best way, and the smallest hardware."""
    answers = list(_largest(search, best)) if best is not None else []
    return (*answers, smallest_hardware(search))


def _largest(search: Search, best: Way) -> Iterator[Largest]:
    shape, workload = search.shape, search.workload
    serving = workload.goal == "infer"

    def fits(**changes: int) -> bool:
        micro = changes.pop("micro_batch", best.method.micro_batch)
        asked = workload.model_copy(update={**changes, "batch": workload.batch * micro // best.method.micro_batch})
        other = search.other(workload=asked)
        method = best.method.model_copy(update={"micro_batch": micro})
        return other.judge(method, best.spot).memory.verdict == "fits"

    context = _most(lambda tokens: fits(context=tokens), shape.context)
    bound = " (all that the model was made for)" if context == shape.context else ""
    yield Largest(
        question="context",
        value=context,
        words=f"Up to {context:,} tokens of context fit this way{bound}."
        if context
        else "No context fits this way, however short.",
    )
    if serving:
        most = _most(lambda count: fits(concurrency=count), MOST_CONCURRENCY)
        more = " or more" if most == MOST_CONCURRENCY else ""
        yield Largest(
            question="concurrency",
            value=most,
            words=f"{most:,}{more} requests of {workload.context:,} tokens at once fit this way."
            if most
            else f"Not one request of {workload.context:,} tokens fits this way.",
        )
    else:
        micro = _most(lambda count: fits(micro_batch=count), MOST_MICRO_BATCH)
        more = " or more" if micro == MOST_MICRO_BATCH else ""
        yield Largest(
            question="micro_batch",
            value=micro,
            words=f"A micro batch of up to {micro:,}{more} fits this way."
            if micro
            else f"Not even a micro batch of 1 fits this way at {workload.context:,} tokens.",
        )


def smallest_hardware(search: Search) -> Largest:
    """The cheapest built-in hardware, one node, on which the workload fits; by price an hour, then by memory."""
    for name, fleet in _ladder():
        there = search.other(fleet=fleet, calibration=None)
        way = frugal(there)
        if way is not None and way.memory.verdict == "fits":
            group = fleet.groups[0]
            price = (group.device.price_per_hour or 0) * group.devices
            return Largest(
                question="hardware",
                value=name,
                words=f"The smallest that would do is {group.devices} × {group.device.title} "
                f"({of(way.memory.expected, way.memory.capacity)} each, "
                f"about ${price:.2f} an hour).",
            )
    return Largest(
        question="hardware", value=None, words="No single node of the catalogue would do; use several nodes."
    )


@cache
def _ladder() -> tuple[tuple[str, Fleet], ...]:
    """(name, fleet) of every accelerator of the catalogue by 1, 2, 4 and 8, cheapest first."""
    steps = []
    for name, device in DEVICES.items():
        if device.kind == "cpu":
            continue
        for count in DEVICES_TRIED:
            known = name if count == 1 else f"{count}x{name}"
            steps.append(((device.price_per_hour or 1e9) * count, device.memory_bytes * count, known))
    return tuple((name, clusters.fleet(name)) for _, _, name in sorted(steps))


def frugal(search: Search) -> Way | None:
    """The way that takes the least memory on all devices of the fleet's first group; None when there is none."""
    group = search.fleet.groups[0]
    devices = group.nodes * group.devices
    places, _ = spots(search.fleet, devices)
    if not places:
        return None
    best: Way | None = None
    for method in _frugal_methods(search, devices):
        if impossible(search.shape, search.workload, method, group.device) is None:
            way = search.judge(method, places[0])
            if best is None or way.memory.expected < best.memory.expected:
                best = way
    return best


def _frugal_methods(search: Search, devices: int) -> Iterator[Method]:
    fixed, goal, device = search.fixed, search.workload.goal, search.fleet.groups[0].device
    number = fixed.precision or ("bf16" if device.has("bf16") else "fp16" if device.kind != "cpu" else "fp32")
    base = Method(
        precision=number,
        kv_cache=fixed.kv_cache or number,
        quantization=fixed.quantization or ("nf4" if goal == "qlora" else "none"),
        attention=fixed.attention or "sdpa",
        optimizer=fixed.optimizer or "adamw",
    )
    if goal == "infer":
        yield base.model_copy(update={"tensor": devices})
        if devices <= search.workload.concurrency:
            yield base.model_copy(update={"data": devices})
        return
    data = devices
    while data > 1 and search.workload.batch % data:
        data //= 2
    micro = fixed.micro_batch or 1
    yield base.model_copy(
        update={
            "data": data,
            "tensor": devices // data,
            "zero_stage": fixed.zero_stage if fixed.zero_stage is not None else (3 if data > 1 else 0),
            "micro_batch": micro,
            "accumulation": max(1, search.workload.batch // data // micro),
            "checkpointing": True if fixed.gradient_checkpointing is None else fixed.gradient_checkpointing,
        }
    )


def instead(search: Search, best: Way | None) -> tuple[str, ...]:
    """What would make it fit here, a sentence each, tried one by one; never empty."""
    found = list(_changes(search, best))
    hardware = smallest_hardware(search)
    if hardware.value is None and best is None:
        # Not a matter of size: what forbids it says what would work.
        return tuple(found) or tuple(search.refused) or (hardware.words,)
    return (*found, f"Use other hardware: {hardware.words[0].lower()}{hardware.words[1:]}")


def _changes(search: Search, best: Way | None) -> Iterator[str]:
    workload, fixed = search.workload, search.fixed
    trials: list[tuple[str, Workload, Fixed]] = []
    if fixed.gradient_checkpointing is False:
        trials.append(
            ("Turn gradient checkpointing on", workload, fixed.model_copy(update={"gradient_checkpointing": True}))
        )
    if (fixed.micro_batch or 1) > 1:
        trials.append(("Use a micro batch of 1", workload, fixed.model_copy(update={"micro_batch": 1})))
    if fixed.zero_stage is not None or fixed.offload_optimizer is False:
        free = fixed.model_copy(update={"zero_stage": None, "offload_optimizer": None, "offload_parameters": None})
        trials.append(("Let ZeRO and offload be chosen", workload, free))
    if workload.goal == "infer" and fixed.quantization in (None, "none", "int8", "fp8"):
        trials.append(("Use 4-bit weights (nf4)", workload, fixed.model_copy(update={"quantization": "nf4"})))
    easier = {"full": ("lora", "LoRA"), "lora": ("qlora", "QLoRA")}.get(workload.goal)
    if easier:
        other = workload.model_copy(update={"goal": easier[0]})
        free = fixed.model_copy(update={"quantization": None, "optimizer": None})
        trials.append((f"Train by {easier[1]}", other, free))
    for words, asked, choices in trials:
        if (way := _first_fit(search, asked, choices)) is not None:
            yield f"{words}: {of(way.memory.expected, way.memory.capacity)}."
    context = _most(
        lambda tokens: _first_fit(search, workload.model_copy(update={"context": tokens}), fixed, best) is not None,
        workload.context - 1,
    )
    if context:
        yield f"Shorten the context to {context:,} tokens."
    if workload.goal == "infer" and workload.concurrency > 1:
        count = _most(
            lambda many: _first_fit(search, workload.model_copy(update={"concurrency": many}), fixed, best) is not None,
            workload.concurrency - 1,
        )
        if count:
            yield f"Serve {count:,} request{'s' if count > 1 else ''} at once."


def _first_fit(search: Search, workload: Workload, fixed: Fixed, like: Way | None = None) -> Way | None:
    """A way that fits: `like`'s own method when given, else any of a new search."""
    other = search.other(workload=workload, fixed=fixed)
    ways = [other.judge(like.method, like.spot)] if like else other.ways()
    fitting = [way for way in ways if way.memory.verdict == "fits"]
    return min(fitting, key=lambda way: way.method.devices, default=None)


def _most(fits: Callable[[int], bool], bound: int) -> int:
    """The largest number up to `bound` that fits, 0 when 1 doesn't: doubling, then halving the gap."""
    if bound < 1 or not fits(1):
        return 0
    low = 1
    while low < bound and fits(min(bound, low * 2)):
        low = min(bound, low * 2)
    high = min(bound, low * 2)
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
