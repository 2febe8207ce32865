"""Puts a checkpoint together of the parts that the nodes of an attempt have written, each whole by itself.

Knows nothing of what the files hold, nor of where the parts come from.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from workers.nearby import link_file
from workers.whole import MANIFEST_FILE, Torn


def joined(parts: Sequence[Path], target: Path) -> Path:
    """Make `target` of all their files, with one manifest of them. Its hashes are for its reader to check.

    Raises Torn when a part has no manifest or they aren't of one checkpoint, and OSError.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    files: dict[str, object] = {}
    heads = set()
    for part in parts:
        try:
            manifest = json.loads((part / MANIFEST_FILE).read_text())
            heads.add((manifest["version"], manifest["step"]))
            files |= manifest["files"]
            for name in manifest["files"]:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                link_file(str(part / name), str(target / name))
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise Torn(f"a node's part of it is damaged ({type(error).__name__}).") from error
    if len(heads) > 1:
        raise Torn("its parts are of different steps.")
    version, step = heads.pop()
    (target / MANIFEST_FILE).write_text(json.dumps({"version": version, "step": step, "files": files}, indent=1))
    return target
