"""The recipe of a quantize job, top to bottom: load, measure, quantize, write, load what was written, measure again.

Knows nothing of how the model or its adapter were made, nor of how weights are rounded.
"""

import gc
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from workers.contract.order import ModelInput
from workers.contract.quantize import RESULT, Figures, QuantizeReport, QuantizeSpec
from workers.runtimes.base import Pace, Run, invalid
from workers.runtimes.finetune.merged import with_adapter
from workers.runtimes.models import (
    check_context,
    choose_dtype,
    load_config,
    load_model,
    local_folder,
    place,
)
from workers.runtimes.quantize.figures import perplexity, tokens_per_s
from workers.runtimes.quantize.rounding import Rounding
from workers.runtimes.quantize.texts import Text, calibration, held_out
from workers.runtimes.quantize.written import file_bytes, quantized_parameters

MODEL_DIR = "model"
UNLOADED = (
    "Tokens/s: only vLLM loads AWQ weights, on a GPU. The perplexity is of the rounded weights in memory, before they "
    "were packed."
)


def quantize(run: Run) -> None:
    """Leave output/model/, safetensors with the tokenizer."""
    spec = run.order.spec
    if not isinstance(spec, QuantizeSpec):
        raise invalid(f"spec.kind: {spec.kind!r} is no quantize job.")
    if spec.adapter and run.adapter is None:
        raise invalid(f"adapter: the order says nothing of where {spec.adapter!r} is.")
    run.phase("loading model")
    source = local_folder(run.model)
    stored = load_config(run.model).dtype
    dtype = choose_dtype("auto", run.device_kind)
    model, tokenizer = load_model(run.model, dtype, run.device_kind)
    check_context(spec.sequence_length, model.config)
    model = with_adapter(run, model)
    samples = calibration(spec, run.order.dataset, tokenizer)
    text = held_out(spec, run.order.dataset, tokenizer)
    rounding = Rounding(model, tokenizer, spec, samples.windows)

    run.phase("measuring before")
    before = Figures(bytes=file_bytes(source), **_measured(run, model, text))

    run.phase("quantizing")
    run.say(f"Calibrated on {samples.words}.")
    pace, began = Pace(), time.monotonic()
    rounding.round(lambda done, total: run.progress(done, total, "blocks", pace.eta_s(done, total)))
    took = time.monotonic() - began
    loads = spec.method == "gptq"
    figures: dict[str, float] = {}
    if not loads:
        run.phase("measuring after")
        figures = {"perplexity": _perplexity(run, rounding.model, text)}

    run.phase("saving")
    folder = run.output_dir / MODEL_DIR
    rounding.write(folder, torch.bfloat16 if loads and stored == torch.bfloat16 else torch.float16)
    tokenizer.save_pretrained(folder)
    del model, rounding
    gc.collect()
    if loads:
        run.phase("measuring after")
        figures = _measured(run, _loaded(folder, dtype, run.device_kind), text)
    layers, parameters = quantized_parameters(folder, spec.bits)
    report = QuantizeReport(
        before=before,
        after=Figures(bytes=file_bytes(folder), **figures),
        unmeasured="" if loads else UNLOADED,
        calibrated_on=samples.words,
        measured_on=text.words,
        device=_name_of(run),
        layers=layers,
        parameters=parameters,
        took_s=round(took, 3),
    )
    run.result(RESULT, report.model_dump(mode="json"))
    run.say(f"{report.in_words}.")


def _loaded(folder: Path, dtype: torch.dtype, device_kind: str) -> Any:
    """What was written, as a launch loads it."""
    return load_model(ModelInput(name=MODEL_DIR, uri=str(folder)), dtype, device_kind)[0]


def _measured(run: Run, model: Any, text: Text) -> dict[str, float]:
    return {"perplexity": _perplexity(run, model, text), "tokens_per_s": tokens_per_s(model, text.windows[0])}


def _perplexity(run: Run, model: Any, text: Text) -> float:
    return perplexity(model.to(place(run.device_kind)), text.windows, partial(_told, run, Pace()))


def _told(run: Run, pace: Pace, done: int, total: int) -> None:
    run.progress(done, total, "sequences", pace.eta_s(done, total))


def _name_of(run: Run) -> str:
    device = run.order.devices[0]
    return device.name or device.kind
