"""DeepSpeed's pipeline engine, driven as Transformers' Trainer drives a model: the same callbacks see the same marks.

One step is one `train_batch` of as many micro batches as are accumulated. Its loss is the mean over the step's trained
tokens, wherever they lie. Knows nothing of files or evaluation.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import DefaultFlowCallback, TrainerControl, TrainerState, get_scheduler
from transformers.trainer_callback import CallbackHandler

from workers.contract.reasons import Reason
from workers.runtimes.base import RunFailed
from workers.runtimes.finetune.checkpoints import STATE_FILE
from workers.runtimes.finetune.feed import Batch, Feed
from workers.runtimes.finetune.samples import UNTRAINED
from workers.runtimes.measuring import Meter
from workers.runtimes.team import rank

TAG = "pipeline"
"""What DeepSpeed calls its part of a checkpoint."""


class PipelineTrainer:
    """Trains a PipelineModule on what a feed gives. What `checkpoints.Saver` reads of a trainer it has, too."""

    def __init__(
        self,
        module: Any,
        args: Any,
        config: dict[str, Any],
        feed: Feed,
        meter: Meter,
        callbacks: Sequence[Any],
    ) -> None:
        """`args`: the trainer's settings. `config`: DeepSpeed's."""
        import deepspeed

        self.args, self.model = args, module
        self.feed: Feed | None = feed
        self._batches = feed
        self._meter = meter
        self.state, self.control = TrainerState(max_steps=feed.steps), TrainerControl()
        self.state.compute_steps(args, feed.steps)
        self.engine, _, _, self._schedule = deepspeed.initialize(
            model=module,
            model_parameters=_groups(module, args.weight_decay),
            config=deepcopy(config),
            lr_scheduler=lambda optimizer: get_scheduler(
                args.lr_scheduler_type, optimizer, args.get_warmup_steps(feed.steps), feed.steps
            ),
        )
        self._handler = CallbackHandler([DefaultFlowCallback(), *callbacks], module, None, None, self._schedule)
        self._handler.train_dataloader = feed
        self._tr_loss = torch.tensor(0.0, device=self.engine.device)
        self._globalstep_last_logged = 0
        self._total_train_tokens = 0

    def add_callback(self, callback: Any) -> None:
        self._handler.add_callback(callback)

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Up to the last step, or to the one after which a callback wants it to stop."""
        if resume_from_checkpoint:
            self._go_on(Path(resume_from_checkpoint))
        self._globalstep_last_logged = self.state.global_step
        self.control = self._handler.on_train_begin(self.args, self.state, self.control)
        batches = iter(self._batches)
        while self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            self.control = self._handler.on_step_begin(self.args, self.state, self.control)
            rate = self._schedule.get_last_lr()[0]
            self._tr_loss += self._step(batches)
            self.state.global_step += 1
            self.control = self._handler.on_step_end(self.args, self.state, self.control)
            if self.control.should_log:
                self._log(rate)
            if self.control.should_save:
                self.control = self._handler.on_save(self.args, self.state, self.control)

    def trainable_parameters(self) -> int:
        """Of the whole model; a tied weight counts once."""
        mine = sum(p.numel() for p in self.model.parameters() if p.requires_grad and not p.ds_pipe_replicated)
        count = torch.tensor(mine, device=self.engine.device)
        torch.distributed.all_reduce(count)
        return int(count) // int(self.engine.dp_world_size)

    def close(self) -> None:
        """Let go of the devices' memory."""
        self.engine.destroy()

    def pending_loss(self) -> float:
        """Sum of the losses that are not logged yet; every process has the same."""
        return float(self._tr_loss)

    def state_parts(self, folder: Path) -> list[Callable[[], object]]:
        """What writes the state beside the weights, one part after another; all processes write the same one."""
        return [
            lambda: self.engine.save_checkpoint(str(folder), tag=TAG),
            lambda: torch.save(_generators(), folder / f"generators-{rank()}.pt"),
        ]

    def _step(self, batches: Iterator[Batch]) -> torch.Tensor:
        """The step's loss."""
        taken = [next(batches) for _ in range(self.args.gradient_accumulation_steps)]
        for batch in taken:
            self._meter.saw(batch["input_ids"].numel(), len(batch["input_ids"]))
        trained, tokens = self._counted(taken)
        # The engine takes the mean over micro batches and copies of the model, which are to weigh as their tokens do.
        weight = torch.tensor(len(taken) * self.engine.dp_world_size / max(trained, 1))
        loss: torch.Tensor = self.engine.train_batch(
            iter([(batch["input_ids"], (batch["labels"], weight)) for batch in taken])
        )
        if not torch.isfinite(loss):
            raise RunFailed(
                Reason.NAN_LOSS,
                f"loss: {float(loss)} at step {self.state.global_step + 1} with learning rate "
                f"{self.args.learning_rate:g}; use a lower learning rate, or precision fp32.",
            )
        self._total_train_tokens += tokens
        return loss.detach()

    def _counted(self, taken: list[Batch]) -> tuple[int, int]:
        """(trained tokens, all tokens) of a step's batches over all copies of the model."""
        trained = sum(int((batch["labels"][:, 1:] != UNTRAINED).sum()) for batch in taken)
        tokens = sum(int(batch["attention_mask"].sum()) for batch in taken)
        counts = torch.tensor([trained, tokens], device=self.engine.device)
        torch.distributed.all_reduce(counts)
        counts //= self.engine.num_stages  # each of which has the same batches
        return int(counts[0]), int(counts[1])

    def _log(self, rate: float) -> None:
        logs = {
            "loss": self.pending_loss() / (self.state.global_step - self._globalstep_last_logged),
            "learning_rate": rate,
            "epoch": self.state.epoch,
            "num_tokens": self._total_train_tokens,
        }
        norm = self.engine.get_global_grad_norm()
        if norm is not None:  # known under ZeRO and in bf16
            logs["grad_norm"] = float(norm)
        self._tr_loss.zero_()
        self._globalstep_last_logged = self.state.global_step
        self.control = self._handler.on_log(self.args, self.state, self.control, logs)

    def _go_on(self, folder: Path) -> None:
        steps = self.state.max_steps
        self.state = TrainerState.load_from_json(str(folder / STATE_FILE))
        self.state.max_steps = steps
        self.state.compute_steps(self.args, steps)
        self.engine.load_checkpoint(str(folder), tag=TAG)
        kept = torch.load(folder / f"generators-{rank()}.pt", weights_only=True)
        torch.set_rng_state(kept["cpu"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(kept["cuda"])


def _groups(module: Any, weight_decay: float) -> list[dict[str, Any]]:
    """As Transformers' Trainer decays weights: not norms and biases."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _generators() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state
