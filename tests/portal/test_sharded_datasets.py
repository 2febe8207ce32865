"""A folder of shards as a dataset: it stays where it is, and a sample of its rows says what it holds."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from portal.catalog import dataset_services, store
from portal.catalog.models import Dataset
from workers.contract.errors import Refused

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def folder(own_store: Path) -> Path:
    """Four shards of 1,000 rows each, one of each kind, and two files that are none."""
    place = own_store / "corpus"
    place.mkdir()
    texts = [f"row {number:05} of a corpus" for number in range(4000)]
    parts = [texts[start : start + 1000] for start in range(0, 4000, 1000)]
    (place / "a.jsonl").write_bytes(_lines(parts[0]))
    (place / "b.jsonl.gz").write_bytes(gzip.compress(_lines(parts[1])))
    (place / "c.txt").write_text("\n".join(parts[2]))
    pq.write_table(pa.table({"text": parts[3]}), place / "d.parquet")
    (place / "README.md").write_text("what it is")
    (place / "_SUCCESS").write_text("")
    return place


def _lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_a_folder_of_shards_is_known_by_a_sample(user: User, folder: Path) -> None:
    made = dataset_services.add_dataset(user, name="corpus", uri=str(folder))
    assert (made.format, made.train_uri, made.test_rows, made.shard_count) == ("text", str(folder), 0, 4)
    assert [name for name, _ in made.shards] == ["a.jsonl", "b.jsonl.gz", "c.txt", "d.parquet"]
    assert made.disk_bytes == sum((folder / name).stat().st_size for name, _ in made.shards)
    assert made.train_rows == pytest.approx(4000, rel=0.1)
    assert made.preview[0] == {"text": "row 00000 of a corpus"}
    assert made.token_histogram["max"] > 0


def test_a_test_file_is_held_out_in_the_store(user: User, folder: Path) -> None:
    file = SimpleUploadedFile("test.jsonl", _lines(["something new"]))
    made = dataset_services.add_dataset(user, name="corpus", uri=str(folder), test_file=file)
    assert made.test_rows == 1
    with store.open_read(made.test_uri) as held_out:
        assert json.loads(held_out.read()) == {"text": "something new"}


def test_only_beginnings_are_read(user: User, own_store: Path) -> None:
    (own_store / "large").mkdir()
    line = _lines(["x" * 1000])
    for part in range(3):
        with (own_store / "large" / f"{part}.jsonl").open("wb") as file:
            file.write(line * 2000)
            file.truncate(2**40)  # sparse: to read all of it would take hours
    made = dataset_services.add_dataset(user, name="large", uri=str(own_store / "large"))
    assert made.train_rows == pytest.approx(3 * 2**40 / len(line), rel=0.1)
    assert made.disk_bytes == 3 * 2**40


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', "uri: row 2 of a.jsonl: 'text' is int, not text."),
        ("a.jsonl", b'{"text": "x"}\n{oops\n', "uri: row 2 of a.jsonl: it is not valid JSON."),
        ("a.jsonl", b'{"text": "x", "label": "y"}\n', "labels; give them in one file."),
        ("a.txt", b"\xff\xfe\n", "uri: 'a.txt' is no dataset: none of its rows can be read (it is not UTF-8 text)."),
        ("a.jsonl.gz", b"no gzip at all", "uri: a.jsonl.gz can't be read"),
        ("a.parquet", b"no parquet", "uri: a.parquet can't be read"),
        ("a.jsonl", b"\n", "have no rows."),
        ("a.bin", b"x", "holds no shards; use .jsonl"),
        ("a.jsonl", b'{"x": 1}\n', "uri: the columns of 'a.jsonl' (x) fit no format"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    user: User, own_store: Path, name: str, content: bytes, sentence: str
) -> None:
    (own_store / "bad").mkdir()
    (own_store / "bad" / name).write_bytes(content)
    with pytest.raises(Refused) as refused:
        dataset_services.add_dataset(user, name="bad", uri=str(own_store / "bad"))
    (error,) = refused.value.errors
    assert sentence in error.message
    assert not Dataset.objects.exists()


def test_folders_outside_the_allowed_roots_are_refused(user: User, tmp_path_factory: Any) -> None:
    with pytest.raises(Refused, match="outside the allowed roots"):
        dataset_services.add_dataset(user, name="d", uri=str(tmp_path_factory.mktemp("elsewhere")))


def test_its_page_shows_its_shards_and_their_size(client: Client, user: User, folder: Path) -> None:
    client.force_login(user)
    form = {"name": "corpus", "format": "auto", "uri": str(folder), "test_uri": "", "test_fraction": "0.2", "seed": "1"}
    page = client.post(reverse("dataset-new"), form, follow=True).content.decode()
    assert "the rows looked at are good" in page
    assert "d.parquet" in page
    assert "about" in page
    assert "README.md" not in page
