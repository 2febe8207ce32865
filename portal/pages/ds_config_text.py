"""The ds_config.json of a fine-tune as text, before any node has written it. Knows no node."""

import json

from workers.contract.ds_config import ds_config
from workers.contract.finetune import FinetuneSpec

RUN_FOLDER = "(the run's folder)/nvme"


def ds_config_text(spec: FinetuneSpec) -> str:
    """What the run's config will say; '' where it uses no DeepSpeed. What only the node can tell is marked."""
    if spec.deepspeed is None:
        return ""
    config = ds_config(
        spec,
        spec.data_parallel,
        spec.precision,
        spec.resources.device_kind != "cpu",
        spec.deepspeed.nvme_path or RUN_FOLDER,
    )
    return json.dumps(config, indent=2)
