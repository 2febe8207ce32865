"""Models by what they say of themselves, datasets checked and split; what can't be used is refused in a sentence."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from gguf import GGUFWriter

from portal.catalog import dataset_services, model_facts, services, store
from portal.catalog.models import Dataset, ModelProfile
from portal.jobs import plan_names
from workers.contract.errors import Refused

pytestmark = pytest.mark.django_db

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "dtype": "float32",
}


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ada")


def model_folder(at: Path, config: dict[str, Any] | None = None) -> Path:
    """A model folder as small as one can be: a config, and one safetensors file of zeros."""
    at.mkdir(parents=True)
    (at / "config.json").write_text(json.dumps(config or CONFIG))
    header = json.dumps(
        {"model.embed_tokens.weight": {"dtype": "F32", "shape": [32, 8], "data_offsets": [0, 1024]}}
    ).encode()
    (at / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(1024))
    return at


def refusal(call: Any, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        call(**arguments)
    error = refused.value.errors[0]
    return error.field, error.message


def test_a_folder_is_profiled(user: User, own_store: Path) -> None:
    model = services.add_model(user, name="tiny", uri=str(model_folder(own_store / "m")), licence="mit")
    assert (model.layers, model.heads, model.kv_heads, model.context_length) == (2, 4, 2, 128)
    assert (model.parameters, model.tied_embeddings, model.dtype) == (256, True, "float32")
    assert model.disk_bytes == (own_store / "m" / "model.safetensors").stat().st_size
    assert not model.remote_code_approved


def test_a_gguf_file_is_profiled_and_planned_by_its_header(user: User, own_store: Path) -> None:
    path = own_store / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(32)
    writer.add_feed_forward_length(128)
    writer.add_context_length(256)
    writer.add_vocab_size(512)
    writer.add_tensor("token_embd.weight", np.zeros((512, 64), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    model = services.add_model(user, name="tiny", uri=str(path), source="gguf")

    assert (model.layers, model.heads, model.context_length, model.tied_embeddings) == (2, 4, 256, True)
    assert model.config["llama.attention.key_length"] == 32
    shape = plan_names.resolve_model("tiny")
    assert shape.kv_elements(10) == 2 * 10 * 2 * 2 * 32  # layers × tokens × keys and values × heads × width


def test_models_that_cannot_be_used_say_why(user: User, own_store: Path) -> None:
    add = services.add_model
    assert refusal(add, user=user, name="Bad Name", uri="x")[0] == "name"
    field, message = refusal(add, user=user, name="m", uri=str(own_store / "nothing"))
    assert (field, "nothing at" in message) == ("uri", True)
    pickled = own_store / "p"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    assert "pickled weights" in refusal(add, user=user, name="m", uri=str(pickled))[1]
    assert "outside the allowed roots" in refusal(add, user=user, name="m", uri="/etc")[1]
    assert "'..'" in refusal(add, user=user, name="m", uri=f"{own_store}/../../etc")[1]
    assert "scheme" in refusal(add, user=user, name="m", uri="http://example.org/m")[1]
    (own_store / "a.gguf").write_bytes(b"no header")
    assert "no GGUF file" in refusal(add, user=user, name="m", uri=str(own_store / "a.gguf"), source="gguf")[1]
    assert not ModelProfile.objects.exists()


def test_a_link_out_of_the_roots_is_not_followed(user: User, own_store: Path) -> None:
    os.symlink("/etc", own_store / "link")
    assert "outside the allowed roots" in refusal(services.add_model, user=user, name="m", uri=f"{own_store}/link")[1]


@pytest.mark.parametrize(
    ("change", "word"),
    [({"num_attention_heads": 0}, "num_attention_heads"), ({"num_hidden_layers": 10**12}, "num_hidden_layers")],
)
def test_a_nonsense_config_is_one_sentence(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Refused) as refused:
        model_facts.from_config({**CONFIG, **change})
    assert word in refused.value.errors[0].message


def test_remote_code_is_approved_for_one_revision_only(user: User) -> None:
    model = ModelProfile.objects.create(name="m", source="hub", uri="hub://o/m", revision="abc")
    services.set_remote_code(user, model, True)
    assert model.remote_code_approved
    model.revision = "def"
    assert not model.remote_code_approved
    unversioned = ModelProfile.objects.create(name="n", source="safetensors", uri="store://n")
    assert refusal(services.set_remote_code, user=user, model=unversioned, approved=True)[0] == "revision"


def upload(rows: list[dict[str, Any]], name: str = "rows.jsonl") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, "".join(json.dumps(row) + "\n" for row in rows).encode())


ROWS = [{"text": f"ticket {n}", "label": "ab"[n % 2]} for n in range(40)]


def read(uri: str) -> list[dict[str, Any]]:
    with store.open_read(uri) as handle:
        return [json.loads(line) for line in handle]


def test_a_dataset_is_split_by_label_and_reproducibly(user: User) -> None:
    first = dataset_services.add_dataset(user, name="one", file=upload(ROWS))
    second = dataset_services.add_dataset(user, name="two", file=upload(ROWS))
    assert (first.format, first.labels) == ("text_label", ["a", "b"])
    assert (first.train_rows, first.test_rows) == (32, 8)
    assert first.sha256 == second.sha256
    train, test = read(first.train_uri), read(first.test_uri)
    assert sorted(row["text"] for row in train + test) == sorted(row["text"] for row in ROWS)
    assert [row["label"] for row in test].count("a") == 4
    assert sum(first.token_histogram["counts"]) == 32
    assert len(first.preview) == 20


def test_datasets_that_cannot_be_used_say_why(user: User, own_store: Path) -> None:
    add = dataset_services.add_dataset
    bad = [*ROWS, {"text": "no label"}, {"label": "a"}, {"text": "x", "label": ["a"]}]
    with pytest.raises(Refused) as refused:
        add(user, name="d", file=upload(bad))
    assert [error.value for error in refused.value.errors] == [41, 42, 43]
    assert refusal(add, user=user, name="d")[1] == "file: give a file or a URI."
    assert refusal(add, user=user, name="d", file=SimpleUploadedFile("x.png", b"\x89PNG\xff\xfe"))[0] == "file"
    assert refusal(add, user=user, name="d", uri=f"{own_store}/none.csv")[0] == "uri"
    assert refusal(add, user=user, name="d", file=upload(ROWS), test_fraction=1.5)[0] == "test_fraction"
    assert refusal(add, user=user, name="d", file=upload(ROWS), format="poem")[0] == "format"
    assert "training rows too" in refusal(add, user=user, name="d", file=upload(ROWS), test_file=upload(ROWS[:3]))[1]
    assert not Dataset.objects.exists()
    add(user, name="d", file=upload(ROWS))
    assert "already a dataset" in refusal(add, user=user, name="d", file=upload(ROWS))[1]


def test_a_dataset_by_uri(user: User, own_store: Path) -> None:
    (own_store / "chat.json").write_text(
        json.dumps([{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}] * 5)
    )
    made = dataset_services.add_dataset(user, name="chat", uri=str(own_store / "chat.json"), test_fraction=0)
    assert (made.format, made.train_rows, made.test_uri) == ("messages", 5, "")
