"""A trained adapter as files: PEFT's folder, without a name that only this node knows.

Knows nothing of runs.
"""

from pathlib import Path
from typing import Any

from workers.runtimes.finetune.zero import whole_parameters


def write_adapter(folder: Path, model: Any, base: str, sharded: bool) -> None:
    """Write safetensors and PEFT's config, which calls the base model `base`. `sharded`: by ZeRO 3."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = base
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with whole_parameters(trained, sharded):
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; the manifest says more
