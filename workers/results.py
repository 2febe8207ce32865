"""Puts a run's output folder into the artifact store, one artifact for each thing at its top.

Doesn't know which runtime wrote it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from workers.artifacts import Allowed, ArtifactStore, always
from workers.contract.events import Artifact
from workers.contract.names import OUTPUT_DIR

_ADAPTER_FILE, _MODEL_FILE = "adapter_config.json", "config.json"
_MANIFEST = "manifest.json"


def upload(run_dir: Path, result_uri: str, store: ArtifactStore, allowed: Allowed = always) -> Iterator[Artifact]:
    """Store all of RUN_DIR/output below `result_uri`; yields each thing once it is stored.

    The manifest comes last: where it is, the rest is complete. Raises UnsafeURI, OSError or Withheld.
    """
    output = run_dir / OUTPUT_DIR
    found = sorted(output.iterdir(), key=lambda path: (path.name == _MANIFEST, path.name)) if output.is_dir() else []
    for path in found:
        uri = f"{result_uri.rstrip('/')}/{path.name}"
        size, sha256 = store.put(path, uri, allowed)
        yield Artifact(name=path.name, kind=_kind(path), uri=uri, bytes=size, sha256=sha256)


def _kind(path: Path) -> Literal["adapter", "model", "manifest", "file"]:
    if (path / _ADAPTER_FILE).is_file():
        return "adapter"
    if (path / _MODEL_FILE).is_file() and any(path.glob("*.safetensors")):
        return "model"
    return "manifest" if path.name == _MANIFEST else "file"
