"""TRL's trainers set up from a FinetuneSpec, and the callback that tells the run how it goes.

Knows nothing of files, evaluation or manifests.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DummyOptim
from datasets import Dataset
from transformers import Trainer, TrainerCallback
from trl import DPOConfig, SFTConfig, SFTTrainer

from workers.contract.finetune import FinetuneSpec
from workers.contract.objectives import Objective
from workers.contract.reasons import Reason
from workers.runtimes.base import Pace, Run, RunFailed
from workers.runtimes.finetune.feed import Feed
from workers.runtimes.finetune.lengths import LengthSampler
from workers.runtimes.finetune.numerics import Numerics
from workers.runtimes.finetune.packing import Item, as_example
from workers.runtimes.finetune.pairs import Pair
from workers.runtimes.finetune.samples import Sample
from workers.runtimes.finetune.zero import WAIT_S
from workers.runtimes.measuring import Meter
from workers.runtimes.team import world_size

TOLD = ("loss", "grad_norm", "learning_rate", "epoch", "aux_loss")
"""Of what the trainer logs, what the run tells, and all rewards of preference tuning."""
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


class WatchedTrainer(Trainer):  # type: ignore[misc]  # the library is untyped
    """Put before one of TRL's trainers: it then stops at the first loss that is no number, before it reaches the
    weights, tells `meter` what it trains on, and can be fed and gone on with to the bit."""

    def __init__(self, meter: Meter, **options: Any) -> None:
        super().__init__(**options)
        self._meter = meter
        self.feed: Feed | None = None
        self._rate = 0.0
        self._decays: list[float] = []
        self._total_train_tokens: int

    def read_from(self, feed: Feed) -> None:
        """Train on what the feed gives instead of the dataset."""
        self.feed = feed
        self.args.max_steps = feed.steps
        self.args.ignore_data_skip = True  # it goes on by itself

    def get_train_dataloader(self) -> Any:
        return self.feed or super().get_train_dataloader()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths, arguments = self.train_dataset["length"], self.args
        copies = arguments.world_size // self.get_tp_size()
        step = arguments.train_batch_size * arguments.gradient_accumulation_steps * copies
        # The library's own is another after a checkpoint: it draws from the generator that the model draws from. Of
        # whole steps the order is the same however a step is divided among processes and micro batches.
        return LengthSampler(lengths, step, arguments.data_seed, lambda: int(self.state.epoch or 0))

    def create_optimizer(self, model: Any = None) -> Any:
        """DeepSpeed too decays weights as the library does without it: not norms and biases."""
        optimizer = super().create_optimizer(model)
        if isinstance(optimizer, DummyOptim) and self.args.weight_decay:
            decayed = set(self.get_decay_parameter_names(self.model))
            groups: dict[float, list[Any]] = {self.args.weight_decay: [], 0.0: []}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    groups[self.args.weight_decay if name in decayed else 0.0].append(parameter)
            optimizer.params = [{"params": some, "weight_decay": decay} for decay, some in groups.items() if some]
            self._decays = [group["weight_decay"] for group in optimizer.params]
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        """DeepSpeed (0.19) reads the universal form of ZeRO 3 so that all parts of the parameters have the decay of the
        first one and share its count of steps, which each of them then raises."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if not self.is_deepspeed_enabled:
            return
        for group, decay in zip(self.optimizer.param_groups if self._decays else (), self._decays, strict=True):
            group["weight_decay"] = decay
        for state in self.optimizer.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].clone()

    def _get_learning_rate(self) -> float:
        """The step's own: DeepSpeed has its schedule at the next step's when the library asks."""
        return self._rate if self.is_deepspeed_enabled else float(super()._get_learning_rate())

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> torch.Tensor:
        self._rate = float(super()._get_learning_rate())
        self._meter.saw(inputs["input_ids"].numel(), len(inputs["input_ids"]))
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

    def pending_loss(self) -> float:
        """Sum of the losses that are not logged yet, over all processes. Each must ask."""
        return float(self.accelerator.gather(self._tr_loss.detach()).mean())

    def state_parts(self, folder: Path) -> list[Callable[[], object]]:
        """What writes the state beside what is trained, one part after another; all processes write the same one."""
        return [
            lambda: self._save_optimizer_and_scheduler(str(folder)),
            lambda: self._save_scaler(str(folder)),
            lambda: self._save_rng_state(str(folder)),
        ]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The library's own checkpoints are neither whole nor atomic; `checkpoints.Saver` makes them, at on_save."""


class AnswerTrainer(WatchedTrainer, SFTTrainer):  # type: ignore[misc]  # the library is untyped
    """SFTTrainer that is watched, and counts the tokens of packs."""

    def __init__(self, meter: Meter, **options: Any) -> None:
        super().__init__(meter, **options)
        text = self.model.config.get_text_config()
        if hasattr(text, "output_router_logits"):
            # A training step asks for a mixture's router loss itself; who scores or serves has no use for it.
            text.output_router_logits = False

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> torch.Tensor:
        packed, before = inputs.pop("tokens", None), self._total_train_tokens
        loss = super().training_step(model, inputs, *arguments, **options)
        if packed is not None:  # the library counts one sequence of a batch that has no attention mask
            tokens = int(self.accelerator.gather_for_metrics(packed.to(self.args.device)).sum()) // self.get_tp_size()
            self._total_train_tokens = before + tokens
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return loss


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

    def on_step_end(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        self._meter.step()
        self.steps = state.global_step
        if isinstance(train_dataloader, Feed):
            state.epoch = train_dataloader.epoch
        eta_s = self._pace.eta_s(state.global_step - self._begun_at, state.max_steps - self._begun_at)
        self._run.progress(state.global_step, state.max_steps, "steps", eta_s)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done within is not training, and not timed as such."""
        begun_at = time.monotonic()
        yield
        took_s = time.monotonic() - begun_at
        self._logged_at += took_s
        self._meter.aside(took_s)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        now = time.monotonic()
        values: dict[str, float] = {
            name: float(value) for name, value in logs.items() if name in TOLD or name.startswith("rewards/")
        }
        tokens = float(logs.get("num_tokens", self.tokens))
        values["tokens_per_s"] = (tokens - self.tokens) / max(now - self._logged_at, 1e-9)
        self._logged_at, self.tokens = now, tokens
        self.losses.append(values["loss"])
        state.log_history.clear()  # nobody reads it, and it would grow with every step
        self._run.metric({name: value for name, value in values.items() if math.isfinite(value)}, state.global_step)


def trainer_settings(
    spec: FinetuneSpec, work_dir: Path, numerics: Numerics, device_kind: str, ds_config: dict[str, Any] | None
) -> SFTConfig | DPOConfig:
    """The spec in the trainer's words. `work_dir` is scratch space. Under ZeRO 3, make it before loading the model."""
    common: dict[str, Any] = dict(
        output_dir=str(work_dir),
        num_train_epochs=spec.epochs,
        max_steps=spec.max_steps or -1,
        per_device_train_batch_size=spec.micro_batch,
        gradient_accumulation_steps=spec.gradient_accumulation,
        max_length=spec.context_length,
        train_sampling_strategy="group_by_length" if spec.data.batching == "by_length" else "random",
        learning_rate=spec.learning_rate,
        lr_scheduler_type=SCHEDULES[spec.schedule],
        warmup_steps=spec.warmup_ratio,  # below 1 the trainer reads it as a share of the steps
        adam_beta1=spec.beta1,
        adam_beta2=spec.beta2,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        **numerics.options(),
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
    settings: SFTConfig | DPOConfig
    if spec.objective == "dpo":
        settings = DPOConfig(
            **common,
            beta=spec.dpo.beta,
            loss_type=[spec.dpo.loss_type],
            label_smoothing=spec.dpo.label_smoothing,
            disable_dropout=not spec.lora.dropout,
        )
    else:
        settings = SFTConfig(**common, dataset_kwargs={"skip_prepare_dataset": True})
    if numerics.precision == "fp8":
        settings.mixed_precision = "fp8"  # Accelerate's word, for which the trainer has no argument of its own
    return settings


def as_dataset(items: Sequence[Item], objective: Objective = "sft") -> Dataset:
    """Samples, pairs or packs as the trainer takes them; a stand-in where there are none, for a feed gives them."""
    if not items:
        items = [Pair([0], [0], [0]) if objective == "dpo" else Sample([0], [0], [])]
    examples = [{**as_example(item), "length": len(item)} for item in items]
    return Dataset.from_dict({name: [example[name] for example in examples] for name in examples[0]})
