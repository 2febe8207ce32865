"""TRL's SFTTrainer set up from a FinetuneSpec, and the callback that tells the run how it goes.

Knows nothing of files, evaluation or manifests.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from workers.contract.reasons import Reason
from workers.contract.spec import FinetuneSpec
from workers.runtimes.base import Pace, Run, RunFailed
from workers.runtimes.finetune.samples import Sample
from workers.runtimes.finetune.zero import WAIT_S
from workers.runtimes.measuring import Meter
from workers.runtimes.team import world_size

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


class WatchedTrainer(SFTTrainer):  # type: ignore[misc]  # the library is untyped
    """SFTTrainer that stops at the first loss that is no number, before it reaches the weights; tells `meter` what it
    trains on."""

    def __init__(self, meter: Meter, **options: Any) -> None:
        super().__init__(**options)
        self._meter = meter

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> torch.Tensor:
        self._meter.saw(inputs["input_ids"].numel(), self.args.per_device_train_batch_size)
        loss: torch.Tensor = super().training_step(model, inputs, *arguments, **options)
        if not torch.isfinite(loss):
            raise RunFailed(
                Reason.NAN_LOSS,
                f"loss: {float(loss)} at step {self.state.global_step + 1} with learning rate "
                f"{self.args.learning_rate:g}; use a lower learning rate, or precision fp32.",
            )
        return loss

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # resumed at the end; the library would do one step more
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **options)

    def _load_from_checkpoint(self, *arguments: Any, **options: Any) -> None:
        """PEFT would make fp32 of the bf16 adapters that TRL trains on quantized weights."""
        kinds = {name: parameter.dtype for name, parameter in self.model.named_parameters()}
        super()._load_from_checkpoint(*arguments, **options)
        for name, parameter in self.model.named_parameters():
            if parameter.dtype != kinds[name]:
                parameter.data = parameter.data.to(kinds[name])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The library's own checkpoints are neither whole nor atomic; `checkpoints.Saver` makes them, at on_save."""


class Narrator(TrainerCallback):  # type: ignore[misc]  # the library is untyped
    """Emits Progress each step and a Metric each log; remembers the first and last loss and the tokens seen."""

    def __init__(self, run: Run, meter: Meter) -> None:
        self._run = run
        self._meter = meter
        self._pace = Pace()
        self._logged_at = time.monotonic()
        self.losses: list[float] = []
        self.tokens = 0.0
        self.steps = 0
        self._begun_at = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._pace = Pace()
        self._logged_at = time.monotonic()
        self.steps = self._begun_at = state.global_step
        self._run.progress(state.global_step, state.max_steps, "steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._meter.step()
        self.steps = state.global_step
        eta_s = self._pace.eta_s(state.global_step - self._begun_at, state.max_steps - self._begun_at)
        self._run.progress(state.global_step, state.max_steps, "steps", eta_s)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        now = time.monotonic()
        values: dict[str, float] = {
            name: float(logs[name]) for name in ("loss", "grad_norm", "learning_rate", "epoch") if name in logs
        }
        tokens = float(logs.get("num_tokens", self.tokens))
        values["tokens_per_s"] = (tokens - self.tokens) / max(now - self._logged_at, 1e-9)
        self._logged_at, self.tokens = now, tokens
        self.losses.append(values["loss"])
        state.log_history.clear()  # nobody reads it, and it would grow with every step
        self._run.metric({name: value for name, value in values.items() if math.isfinite(value)}, state.global_step)


def trainer_settings(
    spec: FinetuneSpec, work_dir: Path, dtype: torch.dtype, device_kind: str, ds_config: dict[str, Any] | None
) -> SFTConfig:
    """The spec in the trainer's words. `work_dir` is scratch space. Under ZeRO 3, make it before loading the model."""
    return SFTConfig(
        output_dir=str(work_dir),
        num_train_epochs=spec.epochs,
        max_steps=spec.max_steps or -1,
        per_device_train_batch_size=spec.micro_batch,
        gradient_accumulation_steps=spec.gradient_accumulation,
        max_length=spec.context_length,
        packing=spec.packing,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=SCHEDULES[spec.schedule],
        warmup_steps=spec.warmup_ratio,  # below 1 the trainer reads it as a share of the steps
        optim="adamw_torch",
        adam_beta1=spec.beta1,
        adam_beta2=spec.beta2,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        gradient_checkpointing=spec.gradient_checkpointing,
        seed=spec.seed,
        data_seed=spec.seed,
        logging_steps=spec.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device_kind == "cpu",
        dataloader_pin_memory=device_kind == "cuda",
        ddp_backend="gloo" if device_kind == "cpu" and (ds_config or world_size() > 1) else None,
        ddp_timeout=WAIT_S,
        ddp_find_unused_parameters=False,
        deepspeed=ds_config,
    )


def as_dataset(samples: list[Sample]) -> Dataset:
    """Samples as the trainer takes them: token ids with their labels."""
    return Dataset.from_dict(
        {"input_ids": [sample.input_ids for sample in samples], "labels": [sample.labels for sample in samples]}
    )
