"""What of a model is trained, and how that is kept: adapters on it, all of it, or some of its layers.

Knows nothing of data, optimizers or runs.
"""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from workers.contract.finetune import FinetuneSpec
from workers.runtimes.base import invalid
from workers.runtimes.finetune.zero import whole_parameters
from workers.runtimes.team import rank

NAMED = 12
"""Names that a refusal lists, at most."""


def choose_trained(spec: FinetuneSpec, model: Any) -> LoraConfig | None:
    """PEFT's settings where adapters are trained; else None, and only what is trained asks for gradients.

    Raises RunFailed for a name or pattern that meets nothing of the model.
    """
    if spec.makes_adapter:
        _keep_layout(model)
        return lora_config(spec, model)
    if spec.method == "partial":
        _freeze_all_but(model, _listed(spec.trained_layers))
    return None


def lora_config(spec: FinetuneSpec, model: Any) -> LoraConfig:
    """PEFT's settings. Raises RunFailed for target modules the model doesn't have."""
    targets: str | list[str] = spec.lora.target_modules
    if targets != "all-linear":
        head = model.get_output_embeddings()
        linear = [
            name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
        ]
        targets = sorted({found for wanted in _listed(spec.lora.target_modules) for found in _targets(wanted, linear)})
    return LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=targets,
        use_dora=spec.lora.variant == "dora",
        use_rslora=spec.lora.variant == "rslora",
        task_type="CAUSAL_LM",
    )


def write_trained(folder: Path, model: Any, tokenizer: Any, base: str, sharded: bool) -> None:
    """Write an adapter (PEFT, safetensors; its config calls the base model `base`), or the whole model with its
    tokenizer. `sharded`: by ZeRO 3. Of several processes each calls it, and the first one writes."""
    if hasattr(model, "peft_config"):
        for config in model.peft_config.values():
            config.base_model_name_or_path = base
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with whole_parameters(trained, sharded):
            if rank() == 0 or _is_shared(model):
                model.save_pretrained(
                    folder, safe_serialization=True, save_embedding_layers=False, is_main_process=rank() == 0
                )
            if rank() == 0:
                (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; the manifest says more
        return
    with whole_parameters(model.parameters(), sharded):
        if rank() == 0 or _is_shared(model):
            model.save_pretrained(folder, safe_serialization=True, is_main_process=rank() == 0)
        if rank() == 0:
            tokenizer.save_pretrained(folder)


def _is_shared(model: Any) -> bool:
    """Whether each process has but a part of every layer, so that all must take part in writing it."""
    return (getattr(model, "tp_size", None) or 1) > 1


def _targets(wanted: str, linear: list[str]) -> set[str]:
    """A plain name as it is, once it is known; a pattern as the layers it meets."""
    if any(sign in wanted for sign in "*?["):
        if found := {name for name in linear if _meets(name, wanted)}:
            return found
    elif wanted in {name.split(".")[-1] for name in linear}:
        return {wanted}
    names = ", ".join(sorted({name.split(".")[-1] for name in linear}))
    raise invalid(f"lora.target_modules: {wanted!r} is no layer LoRA can train here; use some of {names}.")


def _keep_layout(model: Any) -> None:
    """Keep bitsandbytes (0.50) from laying 4-bit weights out anew for AVX512-BF16 when they are first scored with: its
    kernel for that layout has no gradient, and training would go on without one, silently."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _freeze_all_but(model: Any, patterns: list[str]) -> None:
    named = dict(model.named_parameters())
    trained: set[str] = set()
    for pattern in patterns:
        found = {name for name in named if _meets(name, pattern)}
        if not found:
            names = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in named))
            some = ", ".join([*names[: NAMED // 2], "…", *names[-NAMED // 2 :]] if len(names) > NAMED else names)
            raise invalid(f"trained_layers: {pattern!r} meets no layer of this model; it has {some}.")
        trained |= found
    for name, parameter in named.items():
        parameter.requires_grad_(name in trained)


def _meets(name: str, pattern: str) -> bool:
    """Whether the pattern is the name, or a run of whole parts of it: 'layers.1' meets 'model.layers.1.mlp.up_proj'."""
    return any(fnmatchcase(f".{name}.", around) for around in (f".{pattern}.", f"*.{pattern}.*"))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
