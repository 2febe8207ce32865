"""The recipe of an export: load, add the adapter to the weights, write. In the node's memory, whatever its devices.

Knows nothing of how the model or its adapter were made.
"""

import torch

from workers.contract.export import GGUF_FILE, ExportSpec
from workers.contract.order import ModelInput
from workers.runtimes.base import Run, invalid
from workers.runtimes.finetune.merged import with_adapter, write_whole_model
from workers.runtimes.finetune.to_gguf import refusal, write_gguf
from workers.runtimes.models import load_config, load_model

MODEL_DIR = "model"
NUMBERS = (torch.float32, torch.bfloat16, torch.float16)


def export(run: Run) -> None:
    """Leave output/model/ (safetensors with the tokenizer) or output/model.gguf."""
    spec = run.order.spec
    if not isinstance(spec, ExportSpec):
        raise invalid(f"spec.kind: {spec.kind!r} is no export.")
    if spec.adapter and run.adapter is None:
        raise invalid(f"adapter: the order says nothing of where {spec.adapter!r} is.")
    run.phase("loading model")
    model, tokenizer = load_model(run.model, _number(run.model), "cpu")
    if spec.format == "gguf" and (sentence := refusal(model, tokenizer)):
        raise invalid(f"format: {sentence}")
    model = with_adapter(run, model)
    run.phase(f"saving as {spec.format}")
    if spec.format == "gguf":
        write_gguf(run.output_dir / GGUF_FILE, model, tokenizer, spec.made(run.order.job))
    else:
        write_whole_model(run.output_dir / MODEL_DIR, model, tokenizer)
    run.result("export", {"parameters": model.num_parameters(), "numbers": str(model.dtype).removeprefix("torch.")})


def _number(source: ModelInput) -> torch.dtype:
    """The type that the weights have where they lie; of a GGUF file's that of those it doesn't quantize, 16 bits."""
    stored = load_config(source).dtype if source.format != "gguf" else torch.float16
    return stored if stored in NUMBERS else torch.float32
