"""What a finished run says of itself: the values of its Result named MEASURED, which the planner is calibrated with.

Knows nothing of what was planned.
"""

from typing import Literal

from pydantic import Field

from workers.contract.base import Contract

MEASURED = "measured"
"""Name of the Result."""
MOST_BYTES = 2**53


class Measured(Contract):
    """Bytes on the run's fullest device, seconds of its median step. What wasn't seen is None."""

    device: str = Field(description="Name of the device as the system gives it.")
    basis: Literal["cuda_reserved", "rss"] = Field(
        description="cuda_reserved: what PyTorch's allocator held on the GPU. rss: resident memory of the process."
    )
    peak_bytes: int = Field(
        ge=0, le=MOST_BYTES, description="Most at one time, while training or serving; loading isn't counted."
    )
    allocated_bytes: int | None = Field(None, ge=0, le=MOST_BYTES, description="Most in live tensors; on a GPU only.")
    baseline_bytes: int = Field(
        0, ge=0, le=MOST_BYTES, description="Held before the model was loaded: the program itself."
    )
    sequence_tokens: int = Field(ge=1, le=10**9, description="Tokens of the longest sequence, padding included.")
    step_tokens: float | None = Field(
        None, gt=0, le=1e12, description="Tokens of the median step, padding included; 1 when serving."
    )
    step_s: float | None = Field(
        None,
        gt=0,
        le=1e12,
        description="Median optimizer step after the first; when serving, of a token of one answer.",
    )
    tokens_per_s: float | None = Field(None, gt=0, le=1e12)
    steps: int = Field(0, ge=0, le=10**9, description="Steps, or answers, that the medians are of.")
