"""What of a model is trained, and how that is kept: adapters on it, all of it, or some of its layers.

Knows nothing of data, optimizers or runs.
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from workers.contract.finetune import FinetuneSpec
from workers.contract.layers import is_pattern, listed, meets
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
        _freeze_all_but(model, listed(spec.trained_layers))
    return None


def lora_config(spec: FinetuneSpec, model: Any) -> LoraConfig:
    """PEFT's settings. Raises RunFailed for target modules the model doesn't have.

    A mixture's experts are no linear layers in Transformers 5, but one parameter of all of them for each product; they
    belong to "all-linear" and go by the name of the parameter, or by "experts".
    """
    targets: str | list[str] = spec.lora.target_modules
    experts = _experts(model)
    if targets == "all-linear":
        trained = {_short(name) for name in experts}
    else:
        head = model.get_output_embeddings()
        linear = [
            name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
        ]
        wanted = listed(spec.lora.target_modules)
        chosen = [_targets(each, linear, experts) for each in wanted]
        targets = sorted(set().union(*(layers for layers, _ in chosen)))
        trained = set().union(*(parameters for _, parameters in chosen))
    if trained and (spec.lora.dropout or spec.lora.variant == "dora"):
        field, value = ("dropout", spec.lora.dropout) if spec.lora.dropout else ("variant", "dora")
        raise invalid(
            f"lora.{field}: {value} can't be had with adapters on a mixture's experts; leave it at its default, "
            "or name target modules without the experts, e.g. q_proj, v_proj."
        )
    return LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=targets,
        target_parameters=sorted(trained) or None,
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


def _targets(wanted: str, linear: list[str], experts: list[str]) -> tuple[set[str], set[str]]:
    """(layers, experts' parameters): of a plain name as it is, once it is known; of a pattern those it meets."""
    if is_pattern(wanted):
        layers, parameters = ({name for name in names if meets(name, wanted)} for names in (linear, experts))
    else:
        layers = {wanted} & {name.split(".")[-1] for name in linear}
        parameters = {_short(name) for name in experts if wanted in name.split(".")[-2:]}
    if layers or parameters:
        return layers, parameters
    names = ", ".join(sorted({name.split(".")[-1] for name in (*linear, *experts)}))
    raise invalid(f"lora.target_modules: {wanted!r} is no layer LoRA can train here; use some of {names}.")


def _experts(model: Any) -> list[str]:
    """Parameters that hold a product's weights of all experts: three dimensions, which ZeRO 3 keeps aside."""
    return [
        name
        for name, parameter in model.named_parameters()
        if name.split(".")[-2:-1] == ["experts"] and len(getattr(parameter, "ds_shape", parameter.shape)) == 3
    ]


def _short(name: str) -> str:
    """An expert parameter's name without its layer: 'experts.down_proj'."""
    return ".".join(name.split(".")[-2:])


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
        found = {name for name in named if meets(name, pattern)}
        if not found:
            names = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in named))
            some = ", ".join([*names[: NAMED // 2], "…", *names[-NAMED // 2 :]] if len(names) > NAMED else names)
            raise invalid(f"trained_layers: {pattern!r} meets no layer of this model; it has {some}.")
        trained |= found
    for name, parameter in named.items():
        parameter.requires_grad_(name in trained)
