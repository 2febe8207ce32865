"""Predictions beside measurements: errors before and after calibration, peers on the same rows.

Runs nothing. Errors are fractions of what was measured; a positive one is an over-prediction.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from portal.planner import memory
from portal.planner.answer import Memory
from portal.planner.calibration import Calibration, Observation, apply, fit, method_key, quantile
from portal.planner.devices import of_cpu
from portal.planner.families import shape_from_config
from portal.planner.request import Method, Workload
from portal.planner.rules import DEFAULT_RULES
from tests.bench.planner.cases import Case, config
from tests.bench.planner.peers import PEERS
from workers import probe

(_CPU,) = probe.cpus(1)
HERE = of_cpu(_CPU.name, os.cpu_count() or 1, 24 * 2**30, _CPU.compute_capability or "")
WIDTH = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Row:
    """One run, what was said of it before, and what it took. Bytes of tensors; `rss` with `rss_before` of it."""

    case: Case
    predicted: Memory
    measured: int
    rss: int
    rss_before: int

    @property
    def key(self) -> str:
        return method_key(self.case.goal, method_of(self.case))

    @property
    def tensors(self) -> int:
        return memory.tensor_bytes(self.predicted)


def method_of(case: Case) -> Method:
    """The way the trainer and `generate` do a case."""
    return Method(
        precision=case.precision,
        quantization=case.quantization,
        micro_batch=case.batch,
        accumulation=case.accumulation,
        checkpointing=case.checkpointing,
        kv_cache=case.precision,
    )


def predict(case: Case) -> Memory:
    """The planner's estimate, uncalibrated."""
    workload = Workload(
        goal=case.goal,
        context=case.context,
        batch=case.batch * case.accumulation,
        concurrency=case.batch,
        lora_rank=case.lora_rank,
    )
    return memory.estimate(shape_from_config(config(case.model), case.model), workload, method_of(case), HERE)


def judge(rows: Sequence[Row], facts: dict[str, Any]) -> dict[str, Any]:
    """The section's JSON but for the machine: errors, peers and rows."""
    calibrated = _cross_validated(rows)
    plain = [row.tensors / row.measured - 1 for row in rows]
    errors = [tensors / row.measured - 1 for tensors, row in zip(calibrated, rows, strict=True)]
    ours = median(map(abs, errors))
    constant = median(row.rss - row.measured for row in rows)
    peers = {name: _peer(name, rows, facts, ours) for name in PEERS}
    return {
        "median_abs_error": ours,
        "p95_abs_error": quantile(sorted(map(abs, errors)), 0.95),
        "worst_under_prediction": max(0.0, *(-error for error in errors)),
        "uncalibrated_median_abs_error": median(map(abs, plain)),
        "uncalibrated_p95_abs_error": quantile(sorted(map(abs, plain)), 0.95),
        "uncalibrated_worst_under_prediction": max(0.0, *(-error for error in plain)),
        "fits_that_did_not": sum(_least_capacity(row) < row.measured for row in rows),
        "rss_constant_bytes": int(constant),
        "rss_median_abs_error": median(abs((row.tensors + constant) / row.rss - 1) for row in rows),
        "peer_median_abs_error": {name: peer["median_abs_error"] for name, peer in peers.items()},
        "times_better": {name: peer["times_better"] for name, peer in peers.items()},
        "peers": peers,
        "rows": [
            {
                "words": row.case.words,
                "config": row.case.model_dump(),
                "predicted": row.tensors,
                "calibrated": round(tensors),
                "measured": row.measured,
                "error": tensors / row.measured - 1,
                "rss": row.rss,
                "rss_before": row.rss_before,
                "peers": {name: guess(row.case, facts[row.case.model]) for name, guess in PEERS.items()},
            }
            for row, tensors in zip(rows, calibrated, strict=True)
        ],
    }


def _cross_validated(rows: Sequence[Row]) -> list[float]:
    """Tensor bytes by the factors that the other half of the rows taught: even ones by odd ones, and back."""
    halves: list[Calibration] = []
    for half in (0, 1):
        seen = [
            Observation(HERE.name, row.key, predicted_bytes=row.tensors, measured_bytes=row.measured)
            for row in rows[half::2]
        ]
        halves.append(fit(seen))
    found = []
    for place, row in enumerate(rows):
        factor = halves[1 - place % 2].factor(HERE.name, row.key)
        found.append(float(memory.tensor_bytes(apply(row.predicted, factor)) if factor else row.tensors))
    return found


def _least_capacity(row: Row) -> float:
    """The smallest device on which the planner says that the tensors fit."""
    lines = [line for line in row.predicted.lines if line.name not in ("context", "reserve")]
    kept = DEFAULT_RULES.inference_headroom if row.case.goal == "infer" else DEFAULT_RULES.memory_buffer
    return max(row.tensors / (1 - kept), float(sum(line.high for line in lines)))


def _peer(name: str, rows: Sequence[Row], facts: dict[str, Any], ours: float) -> dict[str, Any]:
    """Median errors as published and without its overhead of a GPU; how many times ours is smaller than the better."""
    guess: Callable[[Case, dict[str, Any]], tuple[float, float] | None] = PEERS[name]
    answers = [(row, found) for row in rows if (found := guess(row.case, facts[row.case.model])) is not None]
    published = median(abs(found[0] / row.measured - 1) for row, found in answers)
    bare = median(abs(found[1] / row.measured - 1) for row, found in answers)
    best = min(published, bare)
    return {
        "median_abs_error": published,
        "median_abs_error_without_overhead": bare,
        "rows": len(answers),
        "times_better": best / ours if ours else None,
    }
