"""`make bench SECTION=quantizations`: what each quantization that loads on a CPU saves and costs, on SmolLM2-135M.

All are loaded by the launch's own loader and stay loaded. They answer the same conversations in turn, round by round
with fp32 among them, greedily: tokens a second, and the ratio to fp32 of the same round. Then each reads the same text,
which no model here has seen: perplexity, and its change against fp32. `ARGS="--checkpoint gptq=FOLDER"` adds a
checkpoint of that model that is quantized already.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.bench.machine import describe, extremes
from tests.bench.serving.asks import conversations
from tests.stack import ROOT
from workers.contract.order import Order
from workers.runtimes.base import Emitter, Run
from workers.runtimes.quantize.figures import perplexity
from workers.runtimes.quantized import held_bytes
from workers.runtimes.serve.engine import Ask
from workers.runtimes.serve.transformers.engine import TransformersEngine
from workers.runtimes.serve.transformers.loading import load

TEXT = ROOT / "datasets" / "starter" / "test.jsonl"
WINDOW = 512
"""Tokens that are read at a time; the first of them is not scored."""
PLAIN = "fp32"
NEEDS = {"int8": "bitsandbytes", "nf4": "bitsandbytes", "torchao_int8": "torchao"}
"""Quantization of a launch → the package that does it. torchao_int4 loads and answers, but on an AVX2 CPU its kernel is
so slow that one short answer of this model isn't over within half a minute."""


@dataclass(frozen=True)
class Way:
    """One way to hold the model. `model`: where it lies; `quantization`: done while loading it."""

    name: str
    model: Path
    quantization: str = "none"


@dataclass
class Held:
    """A way that is loaded, and what was measured of it."""

    engine: TransformersEngine
    load_s: float
    rates: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    perplexity: float = 0.0

    @property
    def bytes(self) -> int:
        return held_bytes(self.engine._model)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quantizations", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--report", type=Path, default=Path("var/bench/quantizations.json"))
    given = parser.parse_args(arguments)
    began = time.monotonic()
    report: dict[str, Any] = {"section": "quantizations", "before": describe(), "streams": given.streams}
    with tempfile.TemporaryDirectory(prefix="liftoff-bench-") as folder:
        model = Path(folder) / "model"
        subprocess.run([sys.executable, "-m", "workers.runtimes.convert", "starter", str(model)], check=True)
        wanted = [Way(PLAIN, model), *(Way(name, model, name) for name in NEEDS)]
        wanted += [Way(name, Path(path)) for name, _, path in (one.partition("=") for one in given.checkpoint)]
        missing = {way.name: NEEDS[way.name] for way in wanted if way.name in NEEDS and not find_spec(NEEDS[way.name])}
        held = {way.name: _loaded(way, Path(folder)) for way in wanted if way.name not in missing}
        _answer_in_turn(held, given.rounds, given.streams)
        for name, one in held.items():
            one.perplexity = _perplexity(one.engine)
            print(f"{name}: perplexity {one.perplexity:.3f}", file=sys.stderr, flush=True)
            one.engine.close()
        report |= {
            "quantizations": {name: _figures(one, held[PLAIN]) for name, one in held.items()},
            "not_run": {name: f"{package} is not installed" for name, package in missing.items()},
        }
    report |= {"took_s": round(time.monotonic() - began), "machine": describe()}
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


def _perplexity(engine: TransformersEngine) -> float:
    rows = [json.loads(line)["text"] for line in TEXT.read_text(encoding="utf-8").splitlines()]
    tokens = engine.tokens("\n".join(rows))
    windows = [tokens[start : start + WINDOW] for start in range(0, len(tokens), WINDOW)]
    return perplexity(engine._model, windows, lambda done, total: None)


def _loaded(way: Way, folder: Path) -> Held:
    order = {
        "job": 1,
        "attempt": 1,
        "node": "bench",
        "spec": {"kind": "launch", "model": "smol", "precision": "fp32", "quantization": way.quantization},
        "model": {"name": "smol", "uri": str(way.model)},
        "devices": [{"kind": "cpu", "index": 0}],
        "result_uri": "store://bench",
    }
    run_dir = folder / way.name
    run_dir.mkdir()
    began = time.monotonic()
    with open(os.devnull, "wb") as nowhere:
        engine = load(Run(Order.model_validate(order), run_dir, Emitter(nowhere.fileno())))
    return Held(engine, time.monotonic() - began)


def _answer_in_turn(held: dict[str, Held], rounds: int, streams: int) -> None:
    for number in range(rounds):
        for name in held if number % 2 == 0 else reversed(held):
            one = held[name]
            began = time.perf_counter()
            answers = asyncio.run(_answers(one.engine, streams))
            one.rates.append(sum(tokens for _, tokens in answers) / (time.perf_counter() - began))
            one.texts = [text for text, _ in answers]
            said = f"round {number + 1} of {rounds}: {name}, {one.rates[-1]:.1f} tokens/s"
            print(said, file=sys.stderr, flush=True)


async def _answers(engine: TransformersEngine, streams: int) -> list[tuple[str, int]]:
    """(text, tokens) of each conversation, all asked at once."""

    async def one(ask: Ask) -> tuple[str, int]:
        pieces = [piece async for piece in engine.stream(ask).pieces()]
        return "".join(piece.text for piece in pieces), pieces[-1].tokens

    asks = [Ask(engine.prompt(asked.messages), asked.tokens) for asked in conversations(streams, 0)]
    return list(await asyncio.gather(*map(one, asks)))


def _figures(one: Held, plain: Held) -> dict[str, Any]:
    over = [rate / other for rate, other in zip(one.rates, plain.rates, strict=True)]
    same = sum(text == other for text, other in zip(one.texts, plain.texts, strict=True))
    return {
        "bytes": one.bytes,
        "bytes_of_fp32": round(one.bytes / plain.bytes, 3),
        "load_s": round(one.load_s, 1),
        "tokens_per_s": round(statistics.median(one.rates), 1),
        "tokens_per_s_range": extremes(one.rates),
        "over_fp32": round(statistics.median(over), 2),
        "over_fp32_range": extremes(over),
        "perplexity": round(one.perplexity, 3),
        "perplexity_change_percent": round((one.perplexity / plain.perplexity - 1) * 100, 2),
        "same_text_as_fp32": f"{same} of {len(plain.texts)}",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
