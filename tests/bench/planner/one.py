"""One real run in this process: train two steps, or generate, and measure the peak of live tensor bytes.

Knows nothing of predictions.
"""

import logging
import resource
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tests.bench.planner.cases import ANSWER, Case

STEPS = 2
"""The second step finds the optimizer's states of the first."""


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """`peak` bytes of live tensors; `parts` at the peak; `rss` of the process at its peak, `rss_before` loading."""
    import torch

    from workers.contract.order import ModelInput
    from workers.runtimes.models import load_model
    from workers.runtimes.peak import PeakTracker

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[case.precision]
    before = _rss()
    source = ModelInput(name=case.model, uri=str(folder))
    model, tokenizer = load_model(source, dtype, "cpu", case.quantization)
    tracker = PeakTracker()
    if case.goal == "infer":
        _generate(case, model, tracker)
    else:
        _train(case, model, tokenizer, dtype, tracker)
    return {"peak": tracker.peak, "parts": tracker.at_peak().most_common(400), "rss": _rss(), "rss_before": before}


def _rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _length(row: int, rows: int, longest: int) -> int:
    """Tokens of a row: the first of a batch is the longest, the last about half as long."""
    return longest - row * longest // (2 * rows)


def _generate(case: Case, model: Any, tracker: Any) -> None:
    import torch

    width = case.context - ANSWER
    prompt = torch.randint(3, model.config.vocab_size, (case.batch, width))
    mask = torch.ones_like(prompt)
    for row in range(case.batch):
        mask[row, : width - _length(row, case.batch, width)] = 0  # padded on the left
    with tracker, torch.no_grad():
        tracker.adopt([*model.parameters(), *model.buffers()], "weights")
        tracker.phase = "generate"
        model.generate(
            input_ids=prompt,
            attention_mask=mask,
            max_new_tokens=ANSWER,
            min_new_tokens=ANSWER,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=0,
        )


def _train(case: Case, model: Any, tokenizer: Any, dtype: Any, tracker: Any) -> None:
    import torch
    from transformers import TrainerCallback

    from workers.contract.finetune import FinetuneSpec, LoraSettings
    from workers.runtimes.finetune.numerics import decide, facts
    from workers.runtimes.finetune.samples import Sample
    from workers.runtimes.finetune.trained import choose_trained
    from workers.runtimes.finetune.trainer import AnswerTrainer, as_dataset, trainer_settings
    from workers.runtimes.measuring import Meter

    spec = FinetuneSpec(
        model="bench",
        dataset="bench",
        method=case.goal,
        precision=case.precision,
        max_steps=STEPS,
        micro_batch=case.batch,
        gradient_accumulation=case.accumulation,
        context_length=case.context,
        gradient_checkpointing=case.checkpointing,
        lora=LoraSettings(rank=case.lora_rank),
    )

    class Phases(TrainerCallback):  # type: ignore[misc]  # the library is untyped
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            tracker.phase = "optimizer"

    class Phased(AnswerTrainer):
        def compute_loss(self, *arguments: Any, **options: Any) -> Any:
            tracker.phase = "forward"
            loss = super().compute_loss(*arguments, **options)
            tracker.phase = "backward"
            return loss

        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)  # the longest row in every step

    torch.manual_seed(0)
    rows = []
    for row in range(case.batch * case.accumulation * STEPS):
        length = _length(row % case.batch, case.batch, case.context)
        tokens = torch.randint(3, model.config.vocab_size, (length,)).tolist()
        rows.append(Sample(input_ids=tokens, labels=tokens, prompt_ids=[]))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Phased(
            Meter(()),
            model=model,
            args=trainer_settings(spec, Path(scratch), decide(spec, facts("cpu")), "cpu", None),
            train_dataset=as_dataset(rows),
            processing_class=tokenizer,
            peft_config=choose_trained(spec, model),
            callbacks=[Phases()],
        )
        kept = trainer.model
        with tracker:
            tracker.adopt([p for p in kept.parameters() if not p.requires_grad], "weights")
            tracker.adopt([p for p in kept.parameters() if p.requires_grad], "trained weights")
            tracker.adopt(kept.buffers(), "buffers")
            trainer.train()
