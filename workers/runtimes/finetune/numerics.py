"""How a fine-tune computes on its device: number formats, kernels and compilation, chosen or refused.

Knows nothing of data or optimizers' settings. Where TRL and Accelerate take them: transformers' TrainingArguments.
"""

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from shutil import which
from typing import Any, Literal

import torch

from workers.contract.finetune import FinetuneSpec
from workers.contract.numerics import FP8_CAPABILITY
from workers.runtimes.base import invalid
from workers.runtimes.finetune import apart

TF32_CAPABILITY = 8.0
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""Precision → the type that weights have; of fp8 only the products of linear layers are in 8 bits."""
FP8_PACKAGES = ("torchao", "transformer_engine")
"""What Accelerate takes 8-bit products from, the first that is there."""
PACKAGES = ("flash_attn", "liger_kernel", *FP8_PACKAGES)
COMPILERS = {"cpu": ("g++",), "cuda": ("gcc", "clang")}
"""What torch.compile has its kernels built by: Inductor's (C++), or Triton's launchers (C)."""


@dataclass(frozen=True)
class Facts:
    """What a device can. `capability`: CUDA's, 0 on a CPU; `packages`: what of PACKAGES is installed; `compiler`:
    whether one of its COMPILERS is."""

    kind: str
    capability: float = 0
    bf16: bool = False
    packages: frozenset[str] = frozenset()
    compiler: bool = False


@dataclass(frozen=True)
class Numerics:
    """What is used. `attention` None: what the model takes by itself."""

    precision: Literal["fp32", "bf16", "fp16", "fp8"]
    attention: str | None
    fused_optimizer: bool
    liger: bool
    tf32: bool
    compile: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return DTYPES[self.precision]

    def options(self) -> dict[str, Any]:
        """In the words of transformers' TrainingArguments."""
        return {
            "bf16": self.precision == "bf16",
            "fp16": self.precision == "fp16",  # Accelerate scales the loss, and finds the scale
            "tf32": self.tf32 or None,  # None: as PyTorch has it, which is off
            "optim": "adamw_torch_fused" if self.fused_optimizer else "adamw_torch",
            "use_liger_kernel": self.liger,
            "torch_compile": self.compile,
        }

    def told(self, model: Any) -> dict[str, Any]:
        """For the run's results: what is used on this model, also in words."""
        attention = getattr(model.config.get_text_config(), "_attn_implementation", None) or self.attention
        of_packs = attention == apart.NAME
        attention = "sdpa" if of_packs else attention
        words = [
            f"{self.precision} with a scaled loss" if self.precision == "fp16" else self.precision,
            f"{attention} attention" + (", packed samples apart" if of_packs else ""),
            *(["fused AdamW"] if self.fused_optimizer else []),
            *(["Liger kernels"] if self.liger else []),
            *(["TF32"] if self.tf32 else []),
            *(["compiled"] if self.compile else []),
        ]
        return {**asdict(self), "attention": attention, "words": ", ".join(words)}


def facts(device_kind: str) -> Facts:
    """Of this process's device."""
    compiler = any(which(name) for name in COMPILERS[device_kind])
    if device_kind == "cpu":
        return Facts("cpu", compiler=compiler)
    if not torch.cuda.is_available():
        raise invalid("devices: the order gives a CUDA device, but PyTorch finds none on this node.")
    major, minor = torch.cuda.get_device_capability()
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Facts("cuda", major + minor / 10, bf16, frozenset(filter(find_spec, PACKAGES)), compiler)


def decide(spec: FinetuneSpec, device: Facts) -> Numerics:
    """What the spec leaves at auto is chosen. Raises RunFailed for what it asks for and the device hasn't."""
    wanted, gpu = spec.numerics, device.kind == "cuda"
    if wanted.attention == "flash_attention_2":
        _need(gpu, "attention: flash_attention_2 runs on GPUs, and this job is on a CPU; use auto, sdpa or eager.")
        _need(
            "flash_attn" in device.packages,
            "attention: flash_attention_2 needs the package flash-attn, which this node hasn't; use auto or sdpa.",
        )
    if wanted.liger == "on":
        _need(gpu, "liger: Liger's kernels run on GPUs, and this job is on a CPU; use auto or off.")
        _need(
            "liger_kernel" in device.packages,
            "liger: the package liger-kernel isn't installed on this node; install it there, or use auto or off.",
        )
    if wanted.tf32:
        _need(
            device.capability >= TF32_CAPABILITY,
            f"tf32: this device has no TF32, which NVIDIA's GPUs have from compute capability {TF32_CAPABILITY:g} on; "
            "turn it off.",
        )
    if wanted.compile:
        needed = " or ".join(COMPILERS[device.kind])
        _need(device.compiler, f"compile: it needs {needed}, which this node hasn't; install it there, or turn it off.")
    return Numerics(
        precision=_precision(spec, device),
        attention=None if wanted.attention == "auto" else wanted.attention,
        fused_optimizer=wanted.fused_optimizer == "on" or (wanted.fused_optimizer == "auto" and spec.deepspeed is None),
        liger=wanted.liger == "on" or (wanted.liger == "auto" and gpu and "liger_kernel" in device.packages),
        tf32=wanted.tf32,
        compile=wanted.compile,
    )


def attend(model: Any, numerics: Numerics) -> None:
    """Make the model attend as decided. Raises RunFailed where it can't."""
    if numerics.attention is not None:
        try:
            model.set_attn_implementation(numerics.attention)
        except (ImportError, ValueError) as error:
            said = str(error).strip().splitlines()[0].rstrip(".")
            raise invalid(
                f"numerics.attention: this model can't use {numerics.attention} ({said}); use auto."
            ) from error


def _precision(spec: FinetuneSpec, device: Facts) -> Literal["fp32", "bf16", "fp16", "fp8"]:
    if spec.precision == "auto":
        if device.kind == "cpu":
            return "fp32"  # bf16 on a CPU is many times slower
        # A loss can't be scaled over a model that is spread (FinetuneSpec refuses it when it is asked for).
        return "bf16" if device.bf16 else "fp16" if spec.parallel.split == 1 else "fp32"
    if spec.precision == "fp16" and device.kind == "cpu":
        raise invalid("precision: fp16 needs a GPU; use fp32, bf16 or auto on a CPU.")
    if spec.precision == "fp8":
        has = f"has {device.capability:g}" if device.kind == "cuda" else "is a CPU"
        if device.capability < FP8_CAPABILITY:
            raise invalid(
                f"precision: fp8 needs a GPU of compute capability {FP8_CAPABILITY:g} or more, and this device {has}; "
                "use auto."
            )
        if not device.packages & set(FP8_PACKAGES):
            raise invalid(
                "precision: fp8 needs the package torchao or transformer-engine, and this node has neither; "
                "install one there, or use bf16."
            )
    return spec.precision


def _need(met: bool, sentence: str) -> None:
    if not met:
        raise invalid(f"numerics.{sentence}")
