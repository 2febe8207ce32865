"""AutoRound at work: weights rounded in memory, tuned or searched on calibration samples, then packed and written.

GPTQ here is GPTQ's layout: how each weight is rounded is tuned by signed gradients, block after block (Cheng et al.
2023, arXiv:2309.05516). AWQ scales salient channels first (Lin et al. 2023, arXiv:2306.00978), then rounds likewise.
Knows nothing of what the result is worth.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from workers.contract.checkpoint import AUTO_ROUND_GPTQ
from workers.contract.quantize import GROUP_SIZES, QuantizeSpec
from workers.runtimes.base import invalid

BATCH = 8
"""Samples of a step of the tuning."""
FORMATS = {"gptq": AUTO_ROUND_GPTQ, "awq": "auto_awq"}

Progress = Callable[[int, int], None]


class Rounding:
    """One model on its way. `model` holds the rounded weights, as plain numbers, once `round` has returned."""

    def __init__(self, model: Any, tokenizer: Any, spec: QuantizeSpec, samples: list[list[int]]) -> None:
        """Raises RunFailed where the groups don't divide a layer's inputs."""
        _check_groups(model, spec)
        self.model = model
        self._spec = spec
        self._rounder = _rounder(model, tokenizer, spec, samples)

    def round(self, progress: Progress) -> None:
        """Slow; `progress(blocks done, blocks)`."""
        with _told(progress):
            self.model, _ = self._rounder.quantize()

    def write(self, folder: Path, dtype: torch.dtype) -> None:
        """Safetensors and the tokenizer; what isn't quantized as `dtype`. The model is of no use any more."""
        for module in self.model.modules():
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.float16 if hasattr(module, "scale") else dtype)
        # The library would put numbers of the file that the model came from in place of what an adapter or AWQ changed.
        self.model.name_or_path = self.model.config._name_or_path = ""
        self._rounder.save_quantized(str(folder), format=FORMATS[self._spec.method], inplace=True)


def _rounder(model: Any, tokenizer: Any, spec: QuantizeSpec, samples: list[list[int]]) -> Any:
    from auto_round import AutoRound

    ids = [torch.tensor([sample]) for sample in samples]
    return AutoRound(
        model,
        tokenizer,
        alg_configs=_algorithm(spec),
        bits=spec.bits,
        group_size=spec.group_size,
        sym=spec.method == "gptq",  # AWQ's kernels want zero points
        iters=spec.iterations,
        dataset=[{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids],
        nsamples=len(ids),
        seqlen=spec.sequence_length,
        batch_size=min(BATCH, len(ids)),
        seed=spec.seed,
        amp=model.device.type != "cpu",
        device_map=str(model.device),
        low_cpu_mem_usage=False,
        enable_torch_compile=False,
    )


def _algorithm(spec: QuantizeSpec) -> str:
    rounds = "auto_round" if spec.iterations else "rtn"
    return rounds if spec.method == "gptq" else f"awq,{rounds}"


def _check_groups(model: Any, spec: QuantizeSpec) -> None:
    head = model.get_output_embeddings()
    inputs = {
        module.in_features: name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    odd = [width for width in inputs if width % spec.group_size]
    if odd:
        able = [str(size) for size in GROUP_SIZES if not any(width % size for width in inputs)]
        instead = f"use {' or '.join(able)}" if able else "no size does for this model"
        raise invalid(
            f"group_size: {spec.group_size} doesn't divide the {odd[0]} inputs of {inputs[odd[0]]}; {instead}."
        )


@contextmanager
def _told(progress: Progress) -> Iterator[None]:
    """The library says how far it is by its progress bar alone, so its bar tells."""
    from auto_round.compressors import orchestrator

    class Bar(orchestrator.tqdm):  # type: ignore[misc]  # the library is untyped
        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self.total:
                progress(int(self.n), int(self.total))
            return shown

    plain, orchestrator.tqdm = orchestrator.tqdm, Bar
    try:
        yield
    finally:
        orchestrator.tqdm = plain
