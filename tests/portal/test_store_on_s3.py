"""The catalog and the downloads on S3's protocol: what is registered, stored and fetched is what a node would."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from django.contrib.auth.models import User
from gguf import GGUFWriter
from pytest_django.fixtures import Settings

from portal.catalog import dataset_services, services, store
from portal.catalog.store import Unreachable
from portal.telemetry.models import AttemptEvent
from tests.portal.api_client import Caller, refusal
from tests.portal.factories import make_attempt, make_job
from tests.portal.test_catalog import model_folder
from tests.s3_server import BUCKET, S3, s3_server
from workers.artifacts import FsspecStore
from workers.contents import measure, sha256_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def call(user: User) -> Caller:
    return Caller(user)


@pytest.fixture
def bucket(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        settings.LIFTOFF_STORE = f"{server.root}-{tmp_path.name}"
        settings.LIFTOFF_ALLOWED_ROOTS = (f"s3://{BUCKET}/models-{tmp_path.name}",)
        yield server


def node(settings: Settings, folder: Path) -> FsspecStore:
    """A node's store, with a disk of its own."""
    return FsspecStore(settings.LIFTOFF_STORE, settings.LIFTOFF_ALLOWED_ROOTS, folder / "cache")


def test_a_model_on_s3_is_registered_with_the_hash_that_a_node_checks(
    bucket: S3, user: User, settings: Settings, tmp_path: Path
) -> None:
    (place,) = settings.LIFTOFF_ALLOWED_ROOTS
    made = model_folder(tmp_path / "m")
    fsspec.filesystem("s3").put(str(made) + "/", f"{place}/m/", recursive=True)
    model = services.add_model(user, name="m", uri=f"{place}/m")
    assert (model.disk_bytes, model.sha256) == ((made / "model.safetensors").stat().st_size, measure(made)[1])
    assert measure(Path(node(settings, tmp_path).fetch(model.uri, model.sha256)))[1] == model.sha256


def test_a_gguf_file_on_s3_is_profiled_by_its_header(
    bucket: S3, user: User, settings: Settings, tmp_path: Path
) -> None:
    writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_block_count(3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    place = f"{settings.LIFTOFF_ALLOWED_ROOTS[0]}/tiny.gguf"
    fsspec.filesystem("s3").put_file(str(tmp_path / "tiny.gguf"), place)
    model = services.add_model(user, name="tiny", uri=place, source="gguf")
    assert (model.layers, model.sha256) == (3, sha256_of(tmp_path / "tiny.gguf"))


def test_a_dataset_is_stored_and_a_node_reads_it(bucket: S3, user: User, settings: Settings, tmp_path: Path) -> None:
    lines = [b'{"text": "row %d"}\n' % number for number in range(10)]
    rows = b"".join(lines)
    file = SimpleNamespace(name="rows.jsonl", size=len(rows), read=BytesIO(rows).read)
    dataset = dataset_services.add_dataset(user, name="d", file=file)
    paths = [Path(node(settings, tmp_path).fetch(uri)) for uri in (dataset.train_uri, dataset.test_uri)]
    assert sha256_of(*paths) == dataset.sha256
    assert sorted(b"".join(path.read_bytes() for path in paths).splitlines(keepends=True)) == sorted(lines)


def test_what_a_node_stored_is_downloaded_from_the_portal(
    bucket: S3, call: Caller, settings: Settings, tmp_path: Path
) -> None:
    job = make_job(call.user)
    uri = f"store://jobs/{job.pk}/adapter"
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    size, sha256 = node(settings, tmp_path).put(tmp_path / "adapter", uri)
    payload = {"name": "adapter", "kind": "adapter", "uri": uri, "bytes": size, "sha256": sha256}
    AttemptEvent.objects.create(attempt=make_attempt(job), seq=1, at=1.0, type="artifact", payload=payload)
    (listed,) = call.get(f"/jobs/{job.pk}/artifacts").json()
    (file,) = listed["files"]
    assert (file["name"], file["bytes"]) == ("adapter_model.safetensors", 7)
    assert b"".join(call.client.get(file["href"])) == b"weights"

    bucket.stop()
    answer = refusal(call.client.get(file["href"]), 503)
    assert answer["message"].startswith("file: The artifact store can't be reached: ")


def test_what_is_stored_is_moved_listed_and_removed(bucket: S3) -> None:
    store.put("store://a/one", b"1")
    store.move("store://a/one", "store://b/two")
    assert store.entries("store://a") == []
    assert store.files("store://b") == [("two", 1)]
    assert store.exists("store://b/two")
    store.remove("store://b")
    assert store.entries("store://b") == []


def test_a_store_that_does_not_answer_is_said(bucket: S3) -> None:
    bucket.stop()
    with pytest.raises(Unreachable, match=r"^The artifact store can't be reached: .*\.$"):
        store.files("store://a")
