"""`make bench SECTION=training`: what the portal costs a training, and what packing and batches by length save one.

Goals: tokens a second through the portal at least 0.99 of a bare script's with the same trainer and settings; useful
tokens a second of packed short samples at least 2.5 times those of padded ones, on the tests' tiny model; samples a
second with our defaults at least 1.2 times LLaMA-Factory's on rows of mixed lengths, where it installs. Each is
measured in turn with what it is compared with. `--pairs` for a shorter run; `--without-peer` installs nothing.

What packing saves is what a step costs whatever it holds, so the more a model computes by the token, the less:
`packed_over_padded_wider` is the same figure on the model of the other sections, which a CPU is busy with.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests import tiny_model
from tests.bench.machine import describe
from tests.bench.training import data, runs
from tests.stack import Portal, running_portal

GOALS = {"portal_over_bare": 0.99, "packed_over_padded": 2.5, "over_llama_factory": 1.2}
STEPS, ROWS = 60, 600
CONTEXT = 512


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.training", description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--report", type=Path, default=Path("var/bench/training.json"))
    given = parser.parse_args(arguments)
    began = time.monotonic()
    report: dict[str, Any] = {"section": "training", "before": describe(), "pairs": given.pairs, "goals": GOALS}
    with tempfile.TemporaryDirectory(prefix="liftoff-bench-") as folder, running_portal(Path(folder)) as portal:
        home = Path(folder)
        model = data.model(home / "model")
        _add(portal, "models", json={"name": "bench", "uri": str(model)})
        _add(portal, "models", json={"name": "tiny", "uri": str(tiny_model.build(home / "tiny"))})
        for name, shortest, longest in (("mixed", 8, 250), ("short", 4, 24)):
            path = data.rows(home / f"{name}.jsonl", ROWS, shortest, longest)
            everything = {"name": name, "test_fraction": "0"}
            _add(portal, "datasets", data=everything, files={"file": (path.name, path.read_bytes())})
        settings = {
            "model": str(model), "rows": str(home / "mixed.jsonl"), "seed": 42, "max_steps": STEPS, "micro_batch": 4,
            "learning_rate": 1e-4, "context_length": CONTEXT,
        }  # fmt: skip
        report |= _portal_over_bare(portal, home, settings, given.pairs)
        fewer = max(given.pairs // 2, 1)  # where the two are far from alike
        tiny = {"model": "tiny", "context_length": tiny_model.CONTEXT}
        for name, on in (("packed_over_padded", tiny), ("packed_over_padded_wider", {})):
            report |= _packed_over_padded(portal, fewer, name, on)
        report |= _over_peer(portal, home, settings, 0 if given.without_peer else fewer)
    report["met"] = all(report[name] is None or report[name] >= goal for name, goal in GOALS.items())
    report |= {"took_s": round(time.monotonic() - began), "machine": describe()}
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


def _spec(dataset: str, **values: Any) -> dict[str, Any]:
    return {
        "kind": "finetune", "model": "bench", "dataset": dataset, "micro_batch": 4, "learning_rate": 1e-4,
        "context_length": CONTEXT, "evaluate": False, **values,
    }  # fmt: skip


def _portal_over_bare(portal: Portal, home: Path, settings: dict[str, Any], pairs: int) -> dict[str, Any]:
    """The same rows by the same trainer, both ways in turn, the bare script first and last."""
    spec = _spec("mixed", max_steps=STEPS, data={"batching": "shuffled"})
    ours: list[runs.Took] = []
    theirs = [runs.by_hand(home, settings)]
    for _ in range(pairs):
        ours.append(runs.through_portal(portal, spec))
        theirs.append(runs.by_hand(home, settings))
    bare = [one.tokens / one.seconds for one in theirs]
    shares = _beside([one.tokens / one.seconds for one in ours], bare)
    drift = [max(before, after) / min(before, after) for before, after in pairwise(bare)]
    return {
        **_told("portal_over_bare", shares, 3),
        "portal_over_bare_by_step": round(_usual(theirs) / _usual(ours), 3),
        "one_bare_over_the_next": round(statistics.median(drift), 3),
        "submit_to_first_step_s": {
            "portal": round(statistics.median(one.first_s for one in ours), 2),
            "bare": round(statistics.median(one.first_s for one in theirs), 2),
        },
        "tokens": {"portal": ours[0].tokens, "bare": theirs[0].tokens},
    }


def _usual(trainings: Sequence[runs.Took]) -> float:
    """Seconds of a training of which each step took what it usually takes, its median over all of them: what disturbs
    the machine for a moment is left out. The steps are the same in all, over the same rows."""
    steps: list[tuple[float, ...]] = list(zip(*(one.steps for one in trainings), strict=True))
    return sum(statistics.median(of_one) for of_one in steps)


def _packed_over_padded(portal: Portal, pairs: int, name: str, on: dict[str, Any]) -> dict[str, Any]:
    """Tokens that are no padding, a second of training: short samples, four times, so that the first step, which is
    slow, is one of many."""

    def pace(packing: bool) -> float:
        shuffled = {"batching": "shuffled"}  # as everyone pads who doesn't sort
        tokens, seconds = runs.pace(portal, _spec("short", epochs=4, packing=packing, data=shuffled) | on)
        return tokens / seconds

    padded, packed = [pace(False)], []
    for _ in range(pairs):
        packed.append(pace(True))
        padded.append(pace(False))
    return _told(name, _beside(packed, padded))


def _over_peer(portal: Portal, home: Path, settings: dict[str, Any], pairs: int) -> dict[str, Any]:
    """One epoch of the same rows; None with the reason where LLaMA-Factory can't be had."""
    if not pairs:
        return {"over_llama_factory": None, "why_no_llama_factory": "left out"}
    shares = []
    try:
        command = runs.install_peer(Path("var/bench/llama-factory").resolve())
        for _ in range(pairs):
            _, seconds = runs.pace(portal, _spec("mixed", epochs=1))
            shares.append(ROWS / seconds / runs.by_peer(command, home, settings, ROWS))
    except (subprocess.SubprocessError, OSError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return {"over_llama_factory": None, "why_no_llama_factory": said[-1][:300] if said else repr(error)}
    return _told("over_llama_factory", shares)


def _beside(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Each of ours over the mean of theirs before and after it: the machine's own speed drifts within a minute."""
    return [2 * own / (before + after) for own, (before, after) in zip(ours, pairwise(theirs), strict=True)]


def _told(name: str, shares: Sequence[float], digits: int = 2) -> dict[str, Any]:
    return {name: round(statistics.median(shares), digits), f"{name}_95": _interval(shares)}


def _interval(values: Sequence[float]) -> list[float]:
    """95% of the medians of draws with replacement lie within."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return [round(medians[50], 3), round(medians[1949], 3)]


def _add(portal: Portal, kind: str, **body: Any) -> None:
    answer = portal.client.post(f"/api/v1/{kind}", **body)
    assert answer.status_code == 201, answer.text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
