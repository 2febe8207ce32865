"""What finished runs teach about the next: factors on memory and speed, per device model and kind of method.

Knows nothing of how an observation was measured; predicted and measured figures must be of the same thing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from portal.planner.answer import Calibrated, Line, Memory, Share, Speed
from portal.planner.request import Kind, Method
from portal.planner.verdict import judge

FEWEST = 3
"""Fewer runs teach nothing: one of two may be an accident."""
LATEST = 200
"""Older runs are forgotten, they ran with older software."""
FAR = 3.5
"""Robust standard deviations beyond which a run is an outlier (Iglewicz and Hoaglin 1993)."""
SPREAD = 0.01
"""Least spread of a ratio that is told apart, so that runs that agree by chance make no outliers."""
LEAN = 0.75
"""Quantile of measured / predicted bytes: it costs little to reserve a bit more, and a run to reserve less."""
WORTH = 0.05
"""Median error that leaning may cost. Beyond it a factor must be less wrong than none, run by run left out."""


@dataclass(frozen=True)
class Observation:
    """One finished attempt. Bytes at the peak, seconds of a step; None where it wasn't measured."""

    device: str
    """The device's model, as DeviceSpec.name."""
    key: str
    """`method_key` of what it did."""
    predicted_bytes: int | None = None
    measured_bytes: int | None = None
    predicted_step_s: float | None = None
    measured_step_s: float | None = None


@dataclass(frozen=True)
class Calibration:
    """Factors by (device model, method key), and by (device model, goal) for methods with too few runs of their own."""

    factors: Mapping[tuple[str, str], Calibrated] = field(default_factory=dict)

    def factor(self, device: str, key: str) -> Calibrated | None:
        """None where there were too few runs, of the method and of its goal."""
        return self.factors.get((device, key)) or self.factors.get((device, key.split("/")[0]))


def method_key(kind: Kind, method: Method, preference: bool = False) -> str:
    """What runs must have in common to teach about each other: goal, number type, recomputing, sharding."""
    numbers = method.precision if method.quantization == "none" else f"{method.quantization}-{method.precision}"
    parts: list[str] = [kind, numbers]
    if kind != "infer" and method.checkpointing:
        parts.append("checkpointed")
    if preference:
        parts.append("preference")
    if method.zero_stage:
        parts.append(f"zero{method.zero_stage}")
    if method.tensor > 1 or method.pipeline > 1:
        parts.append("split")
    return "/".join(parts)


def fit(observations: Iterable[Observation]) -> Calibration:
    """Factors from observations, oldest first; those without a positive prediction and measurement don't count."""
    groups: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    for seen in observations:
        for key in {seen.key, seen.key.split("/")[0]}:
            groups[seen.device, key].append(seen)
    factors = {place: found for place, seen in groups.items() if (found := _calibrated(seen[-LATEST:])) is not None}
    return Calibration(factors)


def apply(memory: Memory, calibrated: Calibrated) -> Memory:
    """The estimate with every line times the factor, judged anew."""
    factor = calibrated.memory_factor
    lines = tuple(
        Line(
            name=line.name,
            low=round(line.low * factor),
            expected=round(line.expected * factor),
            high=round(line.high * factor),
            words=line.words,
        )
        for line in memory.lines
    )
    expected, high = sum(line.expected for line in lines), sum(line.high for line in lines)
    return memory.model_copy(
        update={
            "lines": lines,
            "low": sum(line.low for line in lines),
            "expected": expected,
            "high": high,
            "verdict": judge(expected, high, memory.usable, memory.capacity),
        }
    )


def apply_speed(speed: Speed, calibrated: Calibrated) -> Speed:
    """The estimate with every second times the factor."""
    factor = calibrated.speed_factor

    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    return speed.model_copy(
        update={
            "step_s": speed.step_s * factor,
            "tokens_per_s": speed.tokens_per_s / factor,
            "ttft_s": times(speed.ttft_s),
            "cost_per_million_tokens": times(speed.cost_per_million_tokens),
            "total_s": times(speed.total_s),
            "total_cost": times(speed.total_cost),
            "shares": tuple(
                Share(name=share.name, seconds=share.seconds * factor, words=share.words) for share in speed.shares
            ),
        }
    )


def _calibrated(seen: Sequence[Observation]) -> Calibrated | None:
    memory = _ratios([(one.predicted_bytes, one.measured_bytes) for one in seen])
    speed = _ratios([(one.predicted_step_s, one.measured_step_s) for one in seen])
    if len(memory) < FEWEST and len(speed) < FEWEST:
        return None
    memory_factor, speed_factor, error, words = (
        1.0,
        1.0,
        0.0,
        "calibrated on {runs} runs here, median error {error:.0%}",
    )
    if len(speed) >= FEWEST:
        speed_factor = median(inliers(speed))
        error = median(abs(ratio / speed_factor - 1) for ratio in speed)
    if len(memory) >= FEWEST:
        plain, error = median(abs(1 / ratio - 1) for ratio in memory), median(_left_out(memory))
        if error <= max(plain, WORTH):
            memory_factor = quantile(inliers(memory), LEAN)
        else:
            error, words = plain, "{runs} runs here differ too much for one factor on memory, median error {error:.0%}"
    runs = max(len(found) for found in (memory, speed) if len(found) >= FEWEST)
    return Calibrated(
        runs=runs,
        memory_factor=memory_factor,
        speed_factor=speed_factor,
        median_error=error,
        words=words.format(runs=runs, error=error),
    )


def inliers(ratios: Sequence[float]) -> list[float]:
    """The ratios that aren't far from their median, in units of the median absolute deviation; sorted."""
    middle = median(ratios)
    spread = max(1.4826 * median(abs(ratio - middle) for ratio in ratios), SPREAD * middle)
    return sorted(ratio for ratio in ratios if abs(ratio - middle) <= FAR * spread)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between the two nearest of the sorted values."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _left_out(ratios: Sequence[float]) -> list[float]:
    """How wrong each run's prediction would have been with the factor of the others."""
    errors = []
    for position, ratio in enumerate(ratios):
        others = [*ratios[:position], *ratios[position + 1 :]]
        errors.append(abs(quantile(inliers(others), LEAN) / ratio - 1))
    return errors


def _ratios(pairs: Iterable[tuple[float | None, float | None]]) -> list[float]:
    return [
        measured / predicted for predicted, measured in pairs if predicted and measured and measured > 0 < predicted
    ]
