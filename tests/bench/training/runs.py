"""One training through a portal, one by hand, one by LLaMA-Factory: what each took. Seconds and tokens."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.stack import Portal

WARM = 5
"""Steps at the beginning that don't count: memory is laid out, caches fill."""
_FINAL_S, _LOOK_S = 600, 5.0
"""Looked at seldom: a request takes the cores from what is measured."""
_PEER = "llamafactory==0.9.5"


@dataclass(frozen=True)
class Took:
    """`first_s`: from the start to the first step's end. `tokens`: of all steps. `steps`: seconds of those after
    WARM."""

    first_s: float
    tokens: float
    steps: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """From the end of step WARM to that of the last one."""
        return sum(self.steps)


def _took(at: list[float], began: float, tokens: float) -> Took:
    """`at`: Unix seconds at the end of each step."""
    return Took(at[0] - began, tokens, tuple(after - before for before, after in pairwise(at[WARM - 1 :])))


def through_portal(portal: Portal, spec: dict[str, Any]) -> Took:
    """A job, from its submission."""
    began = time.time()
    job = portal.submit(spec)
    done = portal.wait(job, lambda now: now["status"] == "succeeded", "the training", _FINAL_S, _LOOK_S)
    points = portal.client.get(f"/api/v1/jobs/{job}/metrics", params={"names": "loss"}).json()["loss"]
    return _took([point["at"] for point in points], began, done["results"]["training"]["tokens"])


def pace(portal: Portal, spec: dict[str, Any]) -> tuple[float, float]:
    """A job's tokens and seconds of training."""
    job = portal.submit(spec)
    done = portal.wait(job, lambda now: now["status"] == "succeeded", "the training", _FINAL_S, _LOOK_S)
    training = done["results"]["training"]
    return training["tokens"], training["seconds"]


def by_hand(home: Path, settings: dict[str, Any]) -> Took:
    """The bare script, from its start."""
    path = home / "bare.json"
    path.write_text(json.dumps({**settings, "scratch": str(home / "bare")}))
    script = Path(__file__).with_name("bare.py")
    began = time.time()
    done = subprocess.run([sys.executable, str(script), str(path)], check=True, capture_output=True, text=True)
    said = json.loads(done.stdout.splitlines()[-1])
    return _took(said["at"], began, said["tokens"][-1])


def install_peer(folder: Path) -> Path:
    """LLaMA-Factory's command, in an environment of its own; made once. Raises CalledProcessError where it can't be."""
    command = folder / "bin" / "llamafactory-cli"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, _PEER], check=True, capture_output=True, text=True, timeout=1500)
    return command


def by_peer(command: Path, home: Path, settings: dict[str, Any], samples: int) -> float:
    """Samples a second of one epoch, by its own count."""
    data, output = home / "peer-data", home / "peer-output"
    data.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in Path(settings["rows"]).read_text().splitlines()]
    alpaca = [{"instruction": row["prompt"], "input": "", "output": row["completion"]} for row in rows]
    (data / "rows.json").write_text(json.dumps(alpaca))
    (data / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    config = {
        "model_name_or_path": settings["model"], "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_rank": 16, "lora_alpha": 32, "lora_target": "all", "dataset": "rows", "dataset_dir": str(data),
        "template": "empty", "cutoff_len": settings["context_length"], "output_dir": str(output),
        "per_device_train_batch_size": settings["micro_batch"], "gradient_accumulation_steps": 1,
        "learning_rate": settings["learning_rate"], "num_train_epochs": 1.0, "lr_scheduler_type": "cosine",
        "use_cpu": True, "logging_steps": 1000, "save_strategy": "no", "overwrite_output_dir": True,
        "report_to": "none", "seed": settings["seed"],
    }  # fmt: skip
    path = home / "peer.yaml"  # of which JSON is a kind
    path.write_text(json.dumps(config))
    environment = {**os.environ, "USE_MODELSCOPE_HUB": "0", "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    subprocess.run([str(command), "train", str(path)], check=True, capture_output=True, text=True, env=environment)
    found = json.loads((output / "train_results.json").read_text())
    return samples / float(found["train_runtime"])
