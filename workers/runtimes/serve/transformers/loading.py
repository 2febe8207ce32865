"""From a launch's order to a transformers engine: the model loaded, tried out, and given as many slots as memory holds.

Knows nothing of how answers are made.
"""

from importlib.util import find_spec
from typing import Any

import psutil
import torch

from workers.contract.launch import LaunchSpec
from workers.runtimes.base import Run
from workers.runtimes.models import add_adapter, choose_dtype, context_limit, load_model
from workers.runtimes.quantized import held_bytes
from workers.runtimes.serve.transformers import offload
from workers.runtimes.serve.transformers.engine import TransformersEngine
from workers.runtimes.serve.transformers.forward import Apart, Forward, Together, why_apart
from workers.runtimes.serve.transformers.linear import quicken
from workers.runtimes.serve.words import lacking

SHARE = 0.8
"""Of the memory that is free once the weights are there, so much goes to keys and values at most."""


def load(run: Run) -> TransformersEngine:
    """Raises RunFailed as `load_model`."""
    spec = run.launch_spec
    dtype = choose_dtype(spec.precision, run.device_kind)
    beyond = offload.options(spec, run.device_kind, len(run.order.devices), run.run_dir)
    model, tokenizer = load_model(run.model, dtype, run.device_kind, spec.quantization, offload=beyond)
    if run.adapter is not None:
        model = add_adapter(model, run.adapter).get_base_model()  # its layers hold the adapter
    quicken(model)
    run.metric({"model_bytes": float(held_bytes(model))})
    context_length = min(spec.context_length, context_limit(model.config) or spec.context_length)
    forward, most = _forward(run, model, context_length, spec)
    lacks = lacking(tokenizer)
    if find_spec("llguidance") is None:
        lacks["response_format"] = "this node has no llguidance, which holds answers to JSON; pip install llguidance."
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
