"""What a fine-tune teaches, the rows it teaches it from, and the settings that only preference tuning has.

Knows no trainer.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from workers.contract.base import Contract

Objective = Literal["sft", "pretraining", "dpo"]

RowFormat = Literal["messages", "prompt_completion", "text", "text_label", "preference"]

LEARNS_FROM: dict[Objective, tuple[RowFormat, ...]] = {
    "pretraining": ("text",),
    "sft": ("messages", "prompt_completion", "text_label", "text"),
    "dpo": ("preference",),
}
"""Plain text is all answer: sft on it is pretraining, as it was before there was a choice."""

PreferenceLoss = Literal[
    "sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop",
]  # fmt: skip

SMOOTHED: tuple[PreferenceLoss, ...] = ("robust", "exo_pair", "aot", "aot_unpaired")
"""Losses that allow for labels that are wrong."""


class DpoSettings(Contract):
    """Direct preference optimization (Rafailov et al. 2023) and its kin: a chosen answer is made likelier than a
    rejected one, measured against the model as it was."""

    beta: float = Field(
        0.1,
        gt=0,
        le=100,
        title="DPO beta",
        description="The larger, the closer to the model as it was; of loss ipo it is tau.",
    )
    loss_type: PreferenceLoss = Field(
        "sigmoid",
        title="Preference loss",
        description="sigmoid: DPO; ipo, hinge, apo_zero …: as TRL's DPOTrainer calls the variants.",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        title="Label smoothing",
        description="Share of pairs that may be the wrong way round; with loss robust, exo_pair, aot or aot_unpaired.",
    )

    @model_validator(mode="after")
    def _smoothing_fits_the_loss(self) -> Self:
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss_type: exo_pair needs label smoothing; set dpo.label_smoothing, e.g. to 0.001.")
        if self.label_smoothing and self.loss_type not in SMOOTHED:
            raise ValueError(
                f"label_smoothing: {self.label_smoothing:g} has no meaning with loss {self.loss_type}; "
                f"use 0, or one of {', '.join(SMOOTHED)}."
            )
        return self


def mismatch(objective: Objective, dataset: str, format: RowFormat) -> str | None:
    """Why the objective can't be learnt from a dataset, in one sentence; None where it can."""
    wanted = LEARNS_FROM[objective]
    if format in wanted:
        return None
    other = next(name for name, formats in LEARNS_FROM.items() if format in formats)
    return (
        f"{objective} learns from rows of {', '.join(wanted)}, and dataset {dataset!r} has rows of {format}; "
        f"use objective {other}, or another dataset."
    )
