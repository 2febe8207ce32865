"""The part of a fine-tune that every recipe has in common: training, and what is told of it afterwards.

Knows nothing of models, of scores, or of what is saved in the end.
"""

import sys
from pathlib import Path
from typing import Any

from workers.contract.measured import MEASURED, Measured
from workers.runtimes.base import STOPPED_EXIT, Run
from workers.runtimes.finetune.checkpoints import Results, Saver
from workers.runtimes.finetune.trainer import Narrator
from workers.runtimes.measuring import Meter


def train_measured(run: Run, trainer: Any, saver: Saver, meter: Meter, checkpoint: Path | None) -> Measured | None:
    """Train to the end, or until the saver has been asked to stop; what was measured meanwhile."""
    run.phase("training")
    run.on_stop.append(saver.ask)
    meter.begin()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return meter.measured()


def tell(
    run: Run, saver: Saver, narrator: Narrator, results: Results, measured: Measured | None, trainable: int
) -> None:
    """Results of the training. Exits instead where the saver has been asked to stop. `trainable`: parameters."""
    run.on_stop.remove(saver.ask)
    if saver.asked:
        sys.exit(STOPPED_EXIT)
    results["training"] = {
        "loss_first": narrator.losses[0],
        "loss_last": narrator.losses[-1],
        "steps": narrator.steps,
        "seconds": round(saver.seconds, 3),
        "tokens": int(narrator.tokens),
        "trainable_parameters": trainable,
    }
    run.result("training", results["training"])
    if saver.best:
        results["best_checkpoint"] = saver.best._asdict()
        run.result("best_checkpoint", results["best_checkpoint"])
    if measured is not None:
        run.result(MEASURED, measured.model_dump(mode="json"))
