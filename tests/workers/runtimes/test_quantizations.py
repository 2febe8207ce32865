"""What a launch makes of a model's weights on a CPU: it answers, stays close, and holds the bytes that were said."""

import asyncio
import json
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, cast

import pytest
import torch

from portal.jobs.plan_specs import PLANNED_AS
from portal.planner.families import shape_from_config
from portal.planner.request import Quantized
from portal.planner.states import weight_bytes
from tests.conftest import missing
from tests.tiny_model import CONTEXT, TEXT
from tests.workers.runtimes.conftest import launch_order, read_events
from workers.contract.launch import Quantization
from workers.contract.order import Order
from workers.runtimes.base import Emitter, Run
from workers.runtimes.preflight.weights import read_weights
from workers.runtimes.serve.engine import Ask
from workers.runtimes.serve.transformers.loading import load

PACKAGES = {"int8": "bitsandbytes", "nf4": "bitsandbytes", "torchao_int8": "torchao", "torchao_int4": "torchao"}
CLOSE = {"none": 1.0, "int8": 0.999, "torchao_int8": 0.999, "nf4": 0.98, "torchao_int4": 0.98}
"""Least cosine of a text's vector and that of the weights as they were."""


class Launched(NamedTuple):
    """What a launch told of its weights, an answer of it, and its vector of a text."""

    bytes: float
    tokens: int
    vector: list[float]


def launched(tiny: Path, folder: Path, quantization: str) -> Launched:
    """By the launch's own loader."""
    spec = {"kind": "launch", "model": "tiny", "quantization": quantization, "context_length": CONTEXT, "max_tokens": 8}
    folder.mkdir()
    with (folder / "events").open("wb") as events:
        engine = load(Run(Order.model_validate(launch_order(tiny, spec=spec)), folder, Emitter(events.fileno())))

        async def ask() -> tuple[int, list[float]]:
            pieces = [piece async for piece in engine.stream(Ask(engine.tokens(TEXT[0]), 8)).pieces()]
            (vector,) = await engine.embed([engine.tokens(TEXT[1])])
            return pieces[-1].tokens, vector

        try:
            tokens, vector = asyncio.run(ask())
        finally:
            engine.close()
    (told,) = read_events(folder / "events").metric("model_bytes")
    return Launched(told, tokens, vector)


@pytest.mark.parametrize("quantization", CLOSE)
def test_it_answers_stays_close_and_holds_the_bytes_that_were_said(
    tiny: Path, tmp_path: Path, quantization: Quantization, caplog: pytest.LogCaptureFixture
) -> None:
    if quantization in PACKAGES and find_spec(PACKAGES[quantization]) is None:
        missing(f"{PACKAGES[quantization]} is not installed")
    plain, found = launched(tiny, tmp_path / "plain", "none"), launched(tiny, tmp_path / "quantized", quantization)
    assert 1 <= found.tokens <= 8
    said = [record.message for record in caplog.records]
    assert len(said) == len(set(said)), "a library repeats itself in the run's log"
    cosine = torch.nn.functional.cosine_similarity(torch.tensor(found.vector), torch.tensor(plain.vector), dim=0)
    assert float(cosine) >= CLOSE[quantization] - 1e-6

    weights = read_weights(Order.model_validate(launch_order(tiny)).model)  # type: ignore[arg-type]
    assert weights is not None
    assert found.bytes == pytest.approx(weights.loaded_bytes("auto", "cpu", quantization), rel=0.1)
    planned_as = PLANNED_AS.get(quantization, cast(Quantized, quantization))
    shape = shape_from_config(json.loads((tiny / "config.json").read_text()), "tiny")
    planned = weight_bytes(shape, planned_as, 4)
    assert found.bytes == pytest.approx(planned.layers + planned.embedding + planned.end, rel=0.05)
