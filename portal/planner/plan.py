"""From a request, a model and a fleet to ranked plans, each with its why, and the answers to the inverse questions.

Ranking: what fits before what is tight; then, to train, the most tokens/s unless fewer devices or a simpler way come
within a tenth of it; to serve, the least loss of quality, then the fewest devices, then tokens/s. Knows no names:
both are resolved.
"""

from portal.planner import inverse
from portal.planner.answer import Plan, PlanAnswer
from portal.planner.calibration import Calibration
from portal.planner.hardware import GIB, Fleet
from portal.planner.quantities import of
from portal.planner.request import PlanRequest
from portal.planner.rules import DEFAULT_RULES, Rules
from portal.planner.search import PREFERENCE, Search, Way
from portal.planner.shapes import ModelShape
from portal.planner.why import reasons, title, warnings

QUALITY = {"none": 0, "fp8": 1, "int8": 2, "awq": 3, "gptq": 3, "nf4": 4}
"""Less is closer to the unquantized model (Dettmers et al. 2022, 2023; Lin et al. 2023)."""
NEAR = 0.9
"""A plan with fewer devices goes first when it reaches this share of the fastest one's tokens/s."""
ALIKE = 2
"""Plans in one answer with the same quantization (serving) or number of devices (training) on one kind of device."""


def plan(
    request: PlanRequest,
    shape: ModelShape,
    fleet: Fleet,
    rules: Rules = DEFAULT_RULES,
    calibration: Calibration | None = None,
) -> PlanAnswer:
    """The best plans of `request` on `fleet`, best first; when nothing fits, the nearest misses and what to change.

    Never raises for a request, shape and fleet that are valid by themselves: an impossible combination is refused in
    words in the answer.
    """
    search = Search(shape, request.workload, request.fixed, fleet, rules, calibration)
    ranked = rank(search.ways(), request.workload.goal == "infer")
    best = ranked[0] if ranked else None
    verdict = best.memory.verdict if best else "exceeds"
    fits = verdict != "exceeds"
    chosen = _varied(ranked, request.limit, search, only_fitting=fits)
    return PlanAnswer(
        verdict=verdict,
        words=_sentence(best, shape, search),
        plans=tuple(_shown(way, search) for way in chosen),
        largest=inverse.largest(search, best),
        instead=() if verdict == "fits" else inverse.instead(search, best),
        refused=tuple(search.refused),
        model=shape.name,
        hardware=fleet.name,
        parameters=shape.parameters,
        considered=search.considered,
    )


def rank(ways: list[Way], serving: bool) -> list[Way]:
    """Best first, by the rule above; among those that exceed, the least bytes over."""
    fitting = [way for way in ways if way.memory.verdict != "exceeds"]
    missing = sorted(
        (way for way in ways if way.memory.verdict == "exceeds"),
        key=lambda way: (way.memory.expected / way.memory.capacity, way.method.devices),
    )
    if serving:
        fitting.sort(
            key=lambda way: (
                PREFERENCE[way.memory.verdict],
                QUALITY[way.method.quantization],
                way.method.devices,
                -way.speed.tokens_per_s,
            )
        )
        return fitting + missing
    ordered: list[Way] = []
    for verdict in ("fits", "tight"):
        left = [way for way in fitting if way.memory.verdict == verdict]
        while left:
            fastest = max(way.speed.tokens_per_s for way in left)
            near = [way for way in left if way.speed.tokens_per_s >= NEAR * fastest]
            first = min(near, key=lambda way: (way.method.devices, _complexity(way), -way.speed.tokens_per_s))
            ordered.append(first)
            left.remove(first)
    return ordered + missing


def _complexity(way: Way) -> tuple[int, int, int]:
    """Less is simpler: fewer splits of the model, less moved off the device, a lower ZeRO stage."""
    method = way.method
    offloads = method.offload_optimizer + method.offload_parameters + (method.optimizer != "adamw")
    return (method.tensor * method.pipeline, offloads, method.zero_stage)


def _varied(ranked: list[Way], limit: int, search: Search, *, only_fitting: bool) -> list[Way]:
    """The first of the ranking, with few that differ in little."""
    counts: dict[tuple[object, ...], int] = {}
    chosen = []
    for way in ranked:
        if only_fitting and way.memory.verdict == "exceeds":
            break
        serving = search.workload.goal == "infer"
        like = (way.method.quantization if serving else way.method.devices, way.device.name)
        counts[like] = counts.get(like, 0) + 1
        if counts[like] <= ALIKE:
            chosen.append(way)
        if len(chosen) == limit:
            break
    return chosen


def _shown(way: Way, search: Search) -> Plan:
    return Plan(
        title=title(way, search.workload),
        method=way.method,
        nodes=way.spot.nodes,
        devices_per_node=way.spot.devices_per_node,
        placement=way.spot.words,
        memory=way.memory,
        speed=way.speed,
        why=reasons(way, search),
        warnings=warnings(way, search),
        calibrated=way.calibrated,
    )


def _sentence(best: Way | None, shape: ModelShape, search: Search) -> str:
    if best is None:
        why = next(iter(search.refused), f"{search.fleet.name} has no devices that could take it.")
        return f"There is no way to do this: {why}"
    where = f"{best.method.devices} × {best.device.title}"
    each = " on each" if best.method.devices > 1 else ""
    taken = of(best.memory.expected, best.memory.capacity)
    if best.memory.verdict == "exceeds":
        return f"{shape.name} exceeds {where}: the nearest way needs {taken}{each}."
    made = "generated" if search.workload.goal == "infer" else "trained"
    speed = f"about {best.speed.tokens_per_s:,.0f} tokens/s {made}"
    if best.memory.verdict == "tight":
        return (
            f"{shape.name} is tight on {where}: {taken}{each}, more than the "
            f"{best.memory.usable / GIB:.1f} GiB the rule allows; {speed}."
        )
    return f"{shape.name} fits on {where}: {taken}{each}, {speed}."
