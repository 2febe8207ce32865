"""Two steps without values, beside the planner's count of the same: an architecture's peak by two ways."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from portal.planner import memory
from portal.planner.devices import DEVICES
from portal.planner.families import shape_from_config
from portal.planner.request import Method, Workload
from workers.runtimes.probe_memory import Unusable, probe

CPU = next(device for device in DEVICES.values() if device.kind == "cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
BATCH, CONTEXT = 2, 256


def configured(kind: str, **changes: Any) -> dict[str, Any]:
    return {**SIZES, "model_type": kind, **changes}


def planned(config: dict[str, Any], goal: str, **method: Any) -> int:
    workload = Workload(goal=goal, context=CONTEXT, batch=BATCH, concurrency=1)  # type: ignore[arg-type]
    precision = method.get("precision", "fp32")
    way = Method(**{"precision": precision, "micro_batch": BATCH, "kv_cache": precision, **method})
    return memory.tensor_bytes(memory.estimate(shape_from_config(config, "tiny"), workload, way, CPU))


@pytest.mark.parametrize("goal", ["lora", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_llama_is_counted_to_the_tenth_of_a_percent(goal: str, precision: str, checkpointing: bool) -> None:
    config = configured("llama", tie_word_embeddings=checkpointing)
    found = probe(config, goal, BATCH, CONTEXT, precision=precision, checkpointing=checkpointing)
    expected = planned(config, goal, precision=precision, checkpointing=checkpointing)
    assert expected == pytest.approx(found["peak_bytes"], rel=0.001)


@pytest.mark.parametrize(
    ("config", "within"),
    [
        (configured("qwen2"), 0.001),
        (configured("qwen3", head_dim=64), 0.002),
        (configured("gemma2", head_dim=32), 0.03),
        (configured("gemma3_text", head_dim=32), 0.002),
        (configured("phi3", pad_token_id=0), 0.03),
        (configured("olmo2"), 0.01),
        (configured("mixtral", num_local_experts=4, num_experts_per_tok=2), 0.04),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_other_families_are_near(config: dict[str, Any], within: float) -> None:
    found = probe(config, "lora", BATCH, CONTEXT, precision="bf16")
    assert planned(config, "lora", precision="bf16") == pytest.approx(found["peak_bytes"], rel=within)


def test_reading_and_answering() -> None:
    config = configured("llama")
    found = probe(config, "infer", 1, CONTEXT)
    assert planned(config, "infer") == pytest.approx(found["peak_bytes"], rel=0.03)
    assert found["parameters"] == shape_from_config(config, "tiny").parameters


def test_it_prints_json(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(configured("llama")))
    done = _run(str(file), "--goal", "lora", "--batch", "2", "--context", "64", "--lora-targets", "q_proj,v_proj")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["peak_bytes"] > found["parameters"] * 4
    assert sum(found["parts"].values()) <= found["peak_bytes"]


def test_nonsense_gets_one_sentence(tmp_path: Path) -> None:
    broken, odd = tmp_path / "broken.json", tmp_path / "odd.json"
    broken.write_text("{")
    odd.write_text('{"hidden_size": 64}')
    for file, said in ((broken, "no JSON file"), (odd, "no model_type"), (tmp_path / "none.json", "no JSON file")):
        done = _run(str(file))
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(Unusable, match="can't be trained"):
        probe(configured("llama"), "lora", 1, 16, lora_targets="no_such_layer")


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "workers.runtimes.probe_memory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
