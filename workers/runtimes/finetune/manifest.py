"""What a fine-tune was made of, written beside its adapter so that it can be made again.

Knows nothing of how the run went beyond the results it is given.
"""

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from workers.contract.order import ModelInput
from workers.runtimes.base import Run, local_path

MANIFEST_FILE = "manifest.json"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed", "tokenizers", "safetensors")


def write_manifest(
    run: Run, precision: str, train_rows: int, ds_config: dict[str, Any] | None, results: dict[str, dict[str, Any]]
) -> Path:
    """Write output/manifest.json. It names models and datasets by name and hash, never by a path of this node."""
    spec, dataset = run.finetune_spec, run.dataset
    manifest = {
        "manifest_version": 1,
        "job": run.order.job,
        "attempt": run.order.attempt,
        "spec": spec.model_dump(mode="json"),
        "seeds": {"model": spec.seed, "data": spec.seed},
        "model": {
            "name": run.model.name,
            "revision": run.model.revision,
            "format": run.model.format,
            "sha256": run.model.sha256 or _sha256(run.model),
        },
        "dataset": {
            "name": dataset.name,
            "format": dataset.format,
            "sha256": dataset.sha256,
            "labels": list(dataset.labels),
            "train_rows": train_rows,
        },
        "devices": [device.model_dump() for device in run.order.devices],
        "precision": precision,
        "versions": {"python": platform.python_version(), **_versions()},
        "ds_config": ds_config,
        "results": results,
    }
    path = run.output_dir / MANIFEST_FILE
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _sha256(model: ModelInput) -> str | None:
    """SHA-256 over the names and contents of the weight files, in order of name; a hub model is pinned by revision."""
    if model.format == "hub":
        return None
    path = local_path(model.uri, "model.uri")
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
