"""Preference tuning: TRL's DPOTrainer on pairs that are tokens already, and how well a model tells them apart.

Knows nothing of files or runs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from trl import DPOTrainer

from workers.runtimes.finetune.packing import as_example
from workers.runtimes.finetune.pairs import Pair
from workers.runtimes.finetune.trainer import WatchedTrainer

TIE = 1e-6
"""Rewards no further apart are equal: before training they differ by rounding alone."""


class PreferenceTrainer(WatchedTrainer, DPOTrainer):  # type: ignore[misc]  # the library is untyped
    """DPOTrainer that is watched. The reference is the base with its adapter off, or a `ref_model` given to it."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def score(self, pairs: Sequence[Pair], progress: Callable[[int, int], None]) -> dict[str, float | int]:
        """Mean loss a pair, the share of pairs whose chosen answer has the higher reward (a tie counts half), and by
        how much, as the loss takes rewards. Of several processes each must call it."""
        was_training = self.model.training
        self.model.eval()
        losses, margins = [], []
        for done, pair in enumerate(pairs, start=1):
            inputs = self._prepare_inputs(self.data_collator([as_example(pair)]))
            with torch.no_grad(), self.compute_loss_context_manager():
                losses.append(float(self.compute_loss(self.model, inputs)))
            margins.append(float(self._metrics["eval"]["rewards/margins"][-1]))
            self._metrics["eval"].clear()
            progress(done, len(pairs))
        self.model.train(was_training)
        won = sum(0.5 if abs(margin) <= TIE else float(margin > 0) for margin in margins)
        return {
            "loss": sum(losses) / len(losses),
            "reward_accuracy": won / len(pairs),
            "reward_margin": sum(margins) / len(margins),
            "rows": len(pairs),
        }
