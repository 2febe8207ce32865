"""Quantize jobs by the real runtime: what is written loads and answers, and is measured beside what it was made of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.workers.runtimes.conftest import Told, read_events, write_rows
from workers.contract.checkpoint import Stored, stored_as
from workers.contract.order import DatasetInput, ModelInput, Order
from workers.contract.quantize import QuantizeReport, QuantizeSpec
from workers.contract.reasons import Reason
from workers.runtimes.base import Emitter, Run, RunFailed
from workers.runtimes.models import load_model, load_tokenizer
from workers.runtimes.quantize.figures import perplexity
from workers.runtimes.quantize.texts import calibration, held_out
from workers.runtimes.quantize.written import quantized_parameters
from workers.runtimes.registry import runtime_for

Quantize = Callable[..., tuple[Path, Told]]
QUICK = {"samples": 8, "sequence_length": 64, "group_size": 32}


def order(model: Path, **spec: Any) -> dict[str, Any]:
    return {
        "job": 9,
        "attempt": 1,
        "node": "here",
        "spec": {"kind": "quantize", "model": "tiny", **QUICK, **spec},
        "model": {"name": "tiny", "uri": str(model)},
        "devices": [{"kind": "cpu", "index": 0, "name": "A CPU"}],
        "result_uri": "store://runs/9",
    }


@pytest.fixture
def quantize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quantize:
    """Carry out a quantize job in this process, on a short text: the model's folder and what it told."""
    monkeypatch.setattr("workers.runtimes.quantize.texts.MEASURED_TOKENS", 512)

    def carry_out(order: dict[str, Any]) -> tuple[Path, Told]:
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        with (run_dir / "events").open("wb") as file:
            run = Run(Order.model_validate(order), run_dir, Emitter(file.fileno()))
            runtime_for("quantize")(run)
        return run.output_dir / "model", read_events(run_dir / "events")

    return carry_out


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def test_a_gptq_checkpoint_loads_answers_and_is_measured(tiny: Path, quantize: Quantize) -> None:
    folder, told = quantize(order(tiny, iterations=2))
    assert told.phases() == ["loading model", "measuring before", "quantizing", "saving", "measuring after"]
    report = QuantizeReport.model_validate(told.result("quantize"))
    before, after = report.before, report.after
    assert after.bytes < before.bytes
    assert before.perplexity is not None
    assert after.perplexity is not None
    assert before.perplexity != after.perplexity == pytest.approx(before.perplexity, rel=0.05)
    assert after.tokens_per_s is not None
    assert (report.layers, report.parameters) == (14, 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128))
    assert report.calibrated_on == "8 × 64 tokens of a built-in text"
    done = [(event.done, event.total) for event in told.of("progress") if event.unit == "blocks"]
    assert done == [(1, 2), (2, 2)]

    stored = Stored("gptq", 4, 32)
    assert stored_as(config_of(folder)) == stored
    assert stored.config.items() <= config_of(folder)["quantization_config"].items()  # what the portal registers
    model, tokenizer = load_model(ModelInput(name="small", uri=str(folder)), torch.float32, "cpu")
    assert model.dtype == torch.float32, "a CPU takes many times as long in fp16"
    ids = tokenizer("Where is my parcel?", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=4, do_sample=False).shape[1] == ids["input_ids"].shape[1] + 4
    assert tokenizer.chat_template


@pytest.fixture
def salient(tiny: Path, tmp_path: Path) -> Path:
    """The tiny model with a few channels that are much larger than the others, as those of trained models are."""
    model, tokenizer = load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")
    for layer in model.model.layers:
        layer.input_layernorm.weight.data[::16] = 20
    model.save_pretrained(tmp_path / "salient")
    tokenizer.save_pretrained(tmp_path / "salient")
    return tmp_path / "salient"


def test_an_awq_checkpoint_has_no_pace_here_and_nothing_but_vllm_loads_it(salient: Path, quantize: Quantize) -> None:
    source = ModelInput(name="tiny", uri=str(salient))
    folder, told = quantize(order(salient, method="awq", iterations=0))
    report = QuantizeReport.model_validate(told.result("quantize"))
    assert report.before.perplexity is not None
    assert report.after.perplexity == pytest.approx(report.before.perplexity, rel=0.05)
    assert report.after.tokens_per_s is None
    assert report.unmeasured.startswith("Tokens/s: only vLLM loads AWQ weights, on a GPU.")
    stored = Stored("awq", 4, 32)
    assert stored.config.items() <= config_of(folder)["quantization_config"].items()
    assert quantized_parameters(folder, 4)[0] == 14
    unpacked = unpacked_awq(source, folder)
    text = held_out(QuantizeSpec.model_validate(order(salient)["spec"]), None, load_tokenizer(source))
    assert perplexity(unpacked, text.windows, lambda done, total: None) == pytest.approx(
        report.after.perplexity, rel=1e-4
    )
    assert unpacked.model.layers[0].input_layernorm.weight[0] != 20  # it scaled that channel, and its inputs' weights
    with pytest.raises(RunFailed) as refused:
        load_model(ModelInput(name="small", uri=str(folder)), torch.float32, "cpu")
    assert refused.value.reason == Reason.INVALID_INPUT
    assert "small has AWQ weights, which only vLLM loads, on a GPU" in refused.value.detail


def unpacked_awq(source: ModelInput, folder: Path) -> Any:
    """The model with the numbers that the checkpoint's packed weights stand for: (weight - zero point) x scale."""
    files = load_file(folder / "model.safetensors")
    model, _ = load_model(source, torch.float32, "cpu")
    order, shifts = [0, 4, 1, 5, 2, 6, 3, 7], torch.arange(0, 32, 4)

    def numbers(packed: torch.Tensor) -> torch.Tensor:
        return ((packed[:, :, None] >> shifts) & 15)[:, :, order].reshape(len(packed), -1)

    plain = {name: tensor.float() for name, tensor in files.items() if name.endswith(".weight")}
    for name in [name.removesuffix(".qweight") for name in files if name.endswith(".qweight")]:
        zeros, scales = (
            each.repeat_interleave(32, dim=0) for each in (numbers(files[f"{name}.qzeros"]), files[f"{name}.scales"])
        )
        plain[f"{name}.weight"] = ((numbers(files[f"{name}.qweight"]) - zeros) * scales.float()).T
    assert not model.load_state_dict(plain, strict=False).unexpected_keys
    return model


@pytest.mark.parametrize(
    ("spec", "detail"),
    [
        ({"group_size": 128}, "group_size: 128 doesn't divide the 64 inputs of"),
        ({"sequence_length": 500}, "context_length: 500 tokens is beyond this model's 256"),
    ],
)
def test_what_cannot_be_quantized_is_refused_before_anything_is_measured(
    tiny: Path, quantize: Quantize, spec: dict[str, Any], detail: str
) -> None:
    with pytest.raises(RunFailed) as refused:
        quantize(order(tiny, **spec))
    assert refused.value.reason == Reason.INVALID_INPUT
    assert refused.value.detail.startswith(detail)


def test_it_is_calibrated_on_training_rows_and_measured_on_others(tiny: Path, tmp_path: Path) -> None:
    _, tokenizer = load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")
    train = write_rows(tmp_path / "train.jsonl", [{"text": f"Parcel {number} is late."} for number in range(40)])
    test = write_rows(tmp_path / "test.jsonl", [{"text": f"Refund {number}, please."} for number in range(40)])
    dataset = DatasetInput(name="mine", format="text", train_uri=str(train), test_uri=str(test), sha256="5eed")
    spec = QuantizeSpec(model="tiny", samples=3, sequence_length=32)
    samples, text = calibration(spec, dataset, tokenizer), held_out(spec, dataset, tokenizer)
    assert samples.words == "3 × 32 tokens of dataset mine"
    assert text.words.endswith("of the test split of dataset mine")
    assert all("Parcel" in tokenizer.decode(window) for window in samples.windows)
    assert all("Refund" in tokenizer.decode(window) for window in text.windows)
    assert calibration(spec, dataset, tokenizer) == samples

    built_in = {tuple(window) for window in calibration(spec, None, tokenizer).windows}
    assert not built_in & {tuple(window) for window in held_out(spec, None, tokenizer).windows}
    with pytest.raises(RunFailed, match="too few for one of 5000; use fewer"):
        calibration(spec.model_copy(update={"sequence_length": 5000}), dataset, tokenizer)


def test_perplexity_of_a_model_that_knows_nothing_is_the_size_of_its_vocabulary(tiny: Path) -> None:
    model, _ = load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")
    model.get_input_embeddings().weight.data.zero_()  # tied: every token is as likely
    assert perplexity(model, [[5, 6, 7, 8]], lambda done, total: None) == pytest.approx(512)
