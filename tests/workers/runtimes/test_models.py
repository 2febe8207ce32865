"""Opening models: what is refused, and quantized ones."""

from pathlib import Path

import pytest
import torch

from workers.contract.launch import Quantization
from workers.contract.order import AdapterInput, ModelInput
from workers.contract.reasons import Reason
from workers.runtimes.base import RunFailed
from workers.runtimes.models import add_adapter, choose_dtype, load_model


def load(folder: Path, quantization: Quantization = "none") -> tuple[object, object]:
    return load_model(ModelInput(name="m", uri=str(folder)), torch.float32, "cpu", quantization)


def test_pickled_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(RunFailed, match=r"pytorch_model\.bin is a pickle"):
        load(tmp_path)


def test_a_folder_without_weights_is_missing_something(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    with pytest.raises(RunFailed, match=r"no \.safetensors file") as refused:
        load(tmp_path)
    assert refused.value.reason == Reason.ARTIFACT_MISSING


def test_a_broken_config_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    with pytest.raises(RunFailed, match="model: 'm' cannot be read"):
        load(tmp_path)


def test_a_uri_of_the_store_is_not_for_a_run() -> None:
    with pytest.raises(RunFailed, match=r"model\.uri: 'store://models/x' is not local"):
        load_model(ModelInput(name="m", uri="store://models/x"), torch.float32, "cpu")


def test_quantized_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(RunFailed, match="quantization: nf4 needs a safetensors model"):
        load_model(ModelInput(name="m", uri=str(path), format="gguf"), torch.float32, "cpu", "nf4")


def test_auto_precision_on_a_cpu_is_fp32() -> None:
    assert choose_dtype("auto", "cpu") == torch.float32
    assert choose_dtype("bf16", "cpu") == torch.bfloat16


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantized_model_is_smaller_and_answers(tiny: Path, quantization: Quantization) -> None:
    whole, tokenizer = load(tiny)
    model, _ = load(tiny, quantization)
    assert model.get_memory_footprint() < whole.get_memory_footprint()  # type: ignore[attr-defined]
    prompt = tokenizer("Where is my parcel?", return_tensors="pt")  # type: ignore[operator]
    answer = model.generate(**prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False)  # type: ignore[attr-defined]
    assert answer.shape[1] == prompt["input_ids"].shape[1] + 4


def test_what_is_no_adapter_is_refused(tiny: Path) -> None:
    model, _ = load(tiny)
    with pytest.raises(RunFailed, match=r"holds no adapter_config\.json"):
        add_adapter(model, AdapterInput(name="a", uri=str(tiny)))
