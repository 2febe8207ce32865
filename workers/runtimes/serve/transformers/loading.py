"""From a launch's order to a transformers engine: its files read with their pace told, the model loaded, tried out, and
given as many slots as memory holds.

Knows nothing of how answers are made.
"""

import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from workers.contract.launch import LaunchSpec
from workers.runtimes.base import Pace, Run
from workers.runtimes.chat import takes_tools
from workers.runtimes.models import add_adapter, choose_dtype, context_limit, load_model
from workers.runtimes.preflight.weights import read_weights
from workers.runtimes.quantized import held_bytes
from workers.runtimes.serve.transformers import offload
from workers.runtimes.serve.transformers.engine import TransformersEngine
from workers.runtimes.serve.transformers.forward import Apart, Forward, Together, why_apart

READ_BYTES = 16 * 2**20
TELL_EVERY_S = 0.5
SHARE = 0.8
"""Of the memory that is free once the weights are there, so much goes to keys and values at most."""


def load(run: Run) -> TransformersEngine:
    """Raises RunFailed as `load_model`."""
    spec = run.launch_spec
    read_ahead(run)
    dtype = choose_dtype(spec.precision, run.device_kind)
    beyond = offload.options(spec, run.device_kind, len(run.order.devices), run.run_dir)
    model, tokenizer = load_model(run.model, dtype, run.device_kind, spec.quantization, offload=beyond)
    if run.adapter is not None:
        model = add_adapter(model, run.adapter).get_base_model()  # its layers hold the adapter
    run.metric({"model_bytes": float(held_bytes(model))})
    context_length = min(spec.context_length, context_limit(model.config) or spec.context_length)
    forward, most = _forward(run, model, context_length, spec)
    lacks = {}
    if find_spec("llguidance") is None:
        lacks["response_format"] = "this node has no llguidance, which holds answers to JSON; pip install llguidance."
    if not takes_tools(tokenizer):
        lacks["tools"] = "this model's chat template knows of no tools; leave them out."
    return TransformersEngine(
        model, tokenizer, forward, context_length=context_length, most=most, queue=spec.queue, lacks=lacks
    )


def _forward(run: Run, model: Any, context_length: int, spec: LaunchSpec) -> tuple[Forward, int]:
    """(how it reads, answers at a time)."""
    with torch.inference_mode():
        why, token_bytes = why_apart(model)
    if why is not None:
        run.say(f"Answers of this model are read one after the other at each step ({why}).")
        return Apart(model), spec.max_concurrency
    room = int(_free_bytes(run) * SHARE / (token_bytes * context_length))
    most = max(1, min(spec.max_concurrency, room))
    if most < spec.max_concurrency:
        run.say(
            f"max_concurrency: memory holds the keys and values of {most} answers of {context_length} tokens at a "
            f"time, not of {spec.max_concurrency}; a shorter context_length gives room for more."
        )
    return Together(model, most, context_length), most


def _free_bytes(run: Run) -> int:
    """Of the run's device, now; of its share where it has one."""
    devices = run.order.devices
    reserved = devices[0].reserved_bytes if devices else None
    if run.device_kind == "cuda":
        free, _ = torch.cuda.mem_get_info()
        held = torch.cuda.memory_reserved()
    else:
        free, held = psutil.virtual_memory().available, psutil.Process().memory_info().rss
    return max(0, min(int(free), reserved - int(held)) if reserved is not None else int(free))


def read_ahead(run: Run) -> None:
    """Bring a local model's weights into the page cache, whence they are mapped: files in a row, which a disk likes
    best, and with the pace told. Not where they would fill the memory."""
    if run.model.format == "hub":
        return
    try:
        weights = read_weights(run.model)
    except (OSError, ValueError, KeyError):
        return  # the loader says what is wrong
    if weights is None or weights.file_bytes > psutil.virtual_memory().available / 2:
        return
    began, told, done, total = time.monotonic(), 0.0, 0, weights.file_bytes
    pace = Pace()
    for size in _read(weights.files):
        done += size
        now = time.monotonic()
        if now - told >= TELL_EVERY_S or done == total:
            told = now
            run.progress(done, total, "bytes", pace.eta_s(done, total))
    took = time.monotonic() - began
    run.result("read", {"bytes": total, "read_s": round(took, 3), "bytes_per_s": round(total / took) if took else 0})


def _read(files: tuple[Path, ...]) -> Iterator[int]:
    """Bytes of each piece."""
    buffer = bytearray(READ_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                yield size
