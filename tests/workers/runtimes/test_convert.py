"""GGUF to safetensors, with the starter model."""

from pathlib import Path

import pytest

from tests.conftest import missing
from workers.runtimes.convert import convert, starter_gguf


def test_a_source_that_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.gguf is not a file"):
        convert(tmp_path / "nothing.gguf", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_starter_model_becomes_a_folder_that_answers(tmp_path: Path) -> None:
    try:
        source = starter_gguf()
    except FileNotFoundError as error:
        missing(str(error))
    target = tmp_path / "smollm2"
    convert(source, target)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in target.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["smollm2"]  # no half-written folder beside it
    assert "quantization_config" not in (target / "config.json").read_text()

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(target, dtype="float32")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0][prompt["input_ids"].shape[1] :])
