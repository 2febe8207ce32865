"""How a fine-tune computes, not what: number formats, kernels and compilation. Knows no devices."""

from typing import Literal

from pydantic import Field

from workers.contract.base import Contract

TrainPrecision = Literal["auto", "fp32", "bf16", "fp16", "fp8"]

Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]

FP8_CAPABILITY = 8.9
"""CUDA compute capability from which GPUs multiply 8-bit floats: Ada, Hopper and newer."""


def has_fp8(kind: str, capability: str | None) -> bool:
    """Whether a device of a node's profile has them."""
    try:
        return kind == "cuda" and float(capability or 0) >= FP8_CAPABILITY
    except ValueError:
        return False


class NumericsSettings(Contract):
    """What is left at auto is chosen for the device; what is asked for and can't be had there is refused."""

    attention: Attention = Field(
        "auto", title="Attention", description="auto: the model's own, as a rule sdpa; flash_attention_2: if installed."
    )
    fused_optimizer: Literal["auto", "on", "off"] = Field(
        "auto",
        title="Fused optimizer",
        description="One kernel for AdamW's step; auto: wherever DeepSpeed has none of its own.",
    )
    liger: Literal["auto", "on", "off"] = Field(
        "auto", title="Liger kernels", description="Fused layers; auto: on a GPU where liger-kernel is installed."
    )
    tf32: bool = Field(
        False, title="TF32", description="fp32 products with 10 bits of mantissa: faster, on GPUs from Ampere on."
    )
    compile: bool = Field(False, title="Compile", description="torch.compile: minutes at the start, then faster steps.")
