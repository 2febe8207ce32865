"""What a figure was measured on, and how noisy that machine is at this moment."""

import os
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any


def describe() -> dict[str, Any]:
    """Cores, load, and the spread of a fixed piece of work done 40 times (p90 over median; 1 is no noise)."""
    times = []
    for _ in range(40):
        began = time.perf_counter()
        sum(range(200_000))
        times.append(time.perf_counter() - began)
    times.sort()
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
        "noise": round(times[int(0.9 * len(times))] / statistics.median(times), 2),
    }


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them don't exceed. Raises IndexError of nothing."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def extremes(values: Sequence[float]) -> list[float]:
    """The least and the greatest."""
    return [round(min(values), 2), round(max(values), 2)]
