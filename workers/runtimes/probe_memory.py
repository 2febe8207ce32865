"""The peak bytes of two training steps, or of reading a prompt and answering it, without taking any of them.

`python -m workers.runtimes.probe_memory CONFIG.json --goal lora --batch 4 --context 2048` builds the architecture of a
config.json under FakeTensorMode and prints JSON. For architectures that the planner only knows roughly. Doesn't know
quantized weights, several devices, or what a GPU's own kernels would do otherwise: it counts the CPU's. Training is
counted as if the batch were padded, since no one can look at a mask without values.
"""

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

STEPS = 2
"""The second step finds the optimizer's states of the first."""
DTYPES = ("fp32", "bf16")
GOALS = ("infer", "lora", "full")
PARTS = 12
"""Largest parts that are named."""


def main() -> None:
    """Exit status 2 and one sentence for a config or an option that can't be used."""
    options = _options()
    try:
        config = json.loads(options.config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(_refused(f"config: {str(options.config)!r} is no JSON file that can be read ({error})."))
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        found = probe(
            config,
            options.goal,
            options.batch,
            options.context,
            precision=options.precision,
            checkpointing=options.checkpointing,
            lora_rank=options.lora_rank,
            lora_targets=options.lora_targets,
        )
    except Unusable as error:
        sys.exit(_refused(str(error)))
    print(json.dumps(found))


class Unusable(Exception):
    """The config is of no model that can be built here. One sentence."""


def probe(
    config: dict[str, Any],
    goal: str,
    batch: int,
    context: int,
    *,
    precision: str = "fp32",
    checkpointing: bool = False,
    lora_rank: int = 16,
    lora_targets: str = "all-linear",
) -> dict[str, Any]:
    """{'peak_bytes', 'parameters', 'parts': {what: bytes}, 'seconds'} of `batch` sequences of `context` tokens.

    Raises Unusable.
    """
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
    from transformers import AutoConfig, AutoModelForCausalLM

    from workers.runtimes.peak import PeakTracker

    start = time.monotonic()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise Unusable("config: it has no model_type; give a model's config.json.")
    options = {name: value for name, value in config.items() if name not in ("model_type", "quantization_config")}
    tracker = PeakTracker()
    with torch.device("meta"):
        try:
            made = AutoConfig.for_model(kind, **options)
            model = AutoModelForCausalLM.from_config(made, dtype=dtype)
        except (AttributeError, ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise Unusable(f"config: no {kind} model can be made of it ({str(error).splitlines()[0]}).") from error
        parameters = sum(parameter.numel() for parameter in model.parameters())
        whole = model
        if goal != "infer":
            model = _trainable(model, goal, checkpointing, lora_rank, lora_targets)
    with FakeTensorMode():
        model._apply(
            lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype)
        )  # to_empty takes no meta tensors here
        whole.tie_weights()
        ids = torch.zeros(batch, context, dtype=torch.long)
        with tracker:
            tracker.adopt([*model.parameters(), *model.buffers()], "weights")
            try:
                _answer(model, ids, tracker) if goal == "infer" else _train(model, ids, dtype, tracker)
            except (DataDependentOutputException, RuntimeError) as error:
                raise Unusable(
                    f"config: a {kind} model can't be followed without values in {precision} "
                    f"({str(error).splitlines()[0]}); try the other precision, or run it for real."
                ) from error
    return {
        "peak_bytes": tracker.peak,
        "parameters": parameters,
        "parts": dict(tracker.at_peak().most_common(PARTS)),
        "seconds": round(time.monotonic() - start, 2),
    }


def _trainable(model: Any, goal: str, checkpointing: bool, rank: int, targets: str) -> Any:
    """The model with the head and the adapters that the trainer puts on it."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    if goal == "lora":
        from peft import LoraConfig, get_peft_model

        names: str | list[str] = targets
        if targets != "all-linear":
            names = [name.strip() for name in targets.split(",") if name.strip()]
        try:
            model = get_peft_model(model, LoraConfig(r=rank, target_modules=names, task_type="CAUSAL_LM"))
        except ValueError as error:
            raise Unusable(
                f"lora_targets: {targets!r} can't be trained here ({str(error).splitlines()[0]})."
            ) from error
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
        if goal == "lora":
            model.enable_input_require_grads()
    return model


def _train(model: Any, ids: Any, dtype: Any, tracker: Any) -> None:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    moments: dict[Any, tuple[Any, Any]] = {}
    mixed = torch.autocast("cpu", dtype=dtype) if dtype != torch.float32 else nullcontext()
    for _ in range(STEPS):
        tracker.phase = "forward"
        with mixed:
            loss = model(input_ids=ids, labels=ids, fused_lm_head=True, use_cache=False).loss
        tracker.phase = "backward"
        loss.backward()
        tracker.phase = "optimizer"
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        _adamw(trained, moments)
        del loss
        for parameter in trained:
            parameter.grad = None


def _adamw(trained: Iterable[Any], moments: dict[Any, tuple[Any, Any]]) -> None:
    """What torch.optim.AdamW takes for one tensor after another; its own step counter has no value to read here."""
    import torch

    with torch.no_grad():
        for parameter in trained:
            if parameter.grad is None:
                continue
            if parameter not in moments:
                moments[parameter] = (torch.zeros_like(parameter), torch.zeros_like(parameter))
            mean, square = moments[parameter]
            mean.lerp_(parameter.grad, 0.1)
            square.mul_(0.95).addcmul_(parameter.grad, parameter.grad, value=0.05)
            parameter.addcdiv_(mean, (square.sqrt() / 0.9).add_(1e-8), value=-1e-4)


def _answer(model: Any, ids: Any, tracker: Any) -> None:
    """Read the prompt, all but two tokens of the context, and answer with two."""
    import torch

    model.eval()
    with torch.no_grad():
        tracker.phase = "reading"
        said = model(input_ids=ids[:, : max(1, ids.shape[1] - STEPS)], use_cache=True, logits_to_keep=1)
        tracker.phase = "answering"
        for _ in range(STEPS):
            # The argument's name differs between versions of Transformers.
            name = "cache" if hasattr(said, "cache") else "past_key_values"
            word = said.logits[:, -1:].float().argmax(dim=-1)
            said = model(input_ids=word, use_cache=True, **{name: getattr(said, name)})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.runtimes.probe_memory", description=__doc__)
    parser.add_argument("config", type=Path, help="a model's config.json")
    parser.add_argument("--goal", choices=GOALS, default="lora")
    parser.add_argument("--batch", type=_positive, default=1, help="sequences of a forward pass")
    parser.add_argument("--context", type=_positive, default=512, help="tokens of a sequence")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--lora-rank", type=_positive, default=16)
    parser.add_argument("--lora-targets", default="all-linear", help="'all-linear', or layer names with commas")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too few; use at least 1")
    return value


def _refused(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
