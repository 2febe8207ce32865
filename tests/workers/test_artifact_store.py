"""The store: what may be read and written, whole or not at all, with the right hash."""

import hashlib
import os
from pathlib import Path

import fsspec
import pytest

from workers.afar import ArtifactMissing
from workers.artifacts import FsspecStore, MemoryStore, Withheld
from workers.contents import measure
from workers.contract.names import UnsafeURI


@pytest.fixture
def folder(tmp_path):
    """A folder of two files to store."""
    path = tmp_path / "made"
    (path / "deep").mkdir(parents=True)
    (path / "b.txt").write_text("b")
    (path / "deep/a.txt").write_text("aa")
    return path


@pytest.fixture(params=["local", "remote", "memory"])
def store(request, tmp_path):
    if request.param == "local":
        return FsspecStore(f"file://{tmp_path}/store", (), tmp_path / "cache")
    if request.param == "remote":
        return FsspecStore(f"memory://bucket-{tmp_path.name}", (), tmp_path / "cache")
    return MemoryStore(tmp_path / "scratch")


FOLDER_HASH = hashlib.sha256(
    f"b.txt {hashlib.sha256(b'b').hexdigest()}\ndeep/a.txt {hashlib.sha256(b'aa').hexdigest()}\n".encode()
).hexdigest()


def test_a_folder_comes_back_as_it_was(store, folder):
    assert store.put(folder, "store://x/made") == (3, FOLDER_HASH)
    assert measure(Path(store.fetch("store://x/made"))) == (3, FOLDER_HASH)
    assert store.exists("store://x/made")
    assert store.exists("store://x/made/deep/a.txt")
    assert not store.exists("store://x/made/c.txt")


def test_a_file_comes_back_as_it_was(store, folder):
    assert store.put(folder / "b.txt", "store://b.txt") == (1, hashlib.sha256(b"b").hexdigest())
    with open(store.fetch("store://b.txt")) as file:
        assert file.read() == "b"
    with store.open("store://b.txt") as file:
        assert file.read() == b"b"


def test_putting_again_replaces_all_of_it(store, folder):
    store.put(folder, "store://x")
    (folder / "b.txt").unlink()
    (folder / "deep/a.txt").write_text("new")
    put = store.put(folder, "store://x")
    assert measure(Path(store.fetch("store://x"))) == put
    assert not store.exists("store://x/b.txt")


def test_hub_names_pass_through(store):
    assert store.fetch("hub://org/model") == "hub://org/model"


def test_what_is_missing_is_said(store):
    with pytest.raises(ArtifactMissing, match="store://nowhere"):
        store.fetch("store://nowhere")


@pytest.mark.parametrize("uri", ["store://../x", "store://a/../../x", "ftp://host/x", "store://"])
def test_uris_that_leave_the_store_are_refused(store, folder, uri):
    for ask in (store.fetch, store.exists, store.open, lambda it: store.put(folder, it)):
        with pytest.raises(UnsafeURI):
            ask(uri)


def test_links_are_not_stored(store, folder):
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(UnsafeURI, match="symbolic link"):
        store.put(folder, "store://x")
    assert not store.exists("store://x")


def test_local_files_are_used_in_place_only_below_the_roots(tmp_path, folder):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    store = FsspecStore(f"file://{tmp_path}/store", (str(folder),), tmp_path / "cache")
    assert store.fetch(str(folder / "b.txt")) == str(folder / "b.txt")
    assert store.fetch(f"file://{folder}/b.txt") == str(folder / "b.txt")
    for uri in (
        str(outside / "secret"),
        f"file://{outside}/secret",
        str(folder) + "-sibling",
        f"{folder}/../outside/secret",
    ):
        with pytest.raises(UnsafeURI):
            store.fetch(uri)
    with pytest.raises(UnsafeURI):
        store.put(folder, str(folder / "written"))


def test_a_link_out_of_the_store_is_refused(tmp_path, folder):
    store = FsspecStore(f"file://{tmp_path}/store", (), tmp_path / "cache")
    (tmp_path / "store/escape").symlink_to(folder)
    (tmp_path / "store/model").mkdir()
    (tmp_path / "store/model/weights").symlink_to(folder / "b.txt")
    for uri in ("store://escape", "store://escape/b.txt", "store://model"):
        with pytest.raises(UnsafeURI, match="symbolic link"):
            store.fetch(uri)
    with pytest.raises(UnsafeURI, match="symbolic link"):
        store.open("store://escape/b.txt")
    with pytest.raises(UnsafeURI, match="symbolic link"):
        store.put(folder, "store://escape/new")
    assert not (folder / "new").exists()


def test_links_inside_the_store_are_fine(tmp_path, folder):
    store = FsspecStore(f"file://{tmp_path}/store", (), tmp_path / "cache")
    store.put(folder, "store://blobs")
    (tmp_path / "store/snapshot").mkdir()
    (tmp_path / "store/snapshot/b.txt").symlink_to("../blobs/b.txt")
    assert store.fetch("store://snapshot") == str(tmp_path / "store/snapshot")


def test_a_remote_artifact_is_fetched_once_and_again_when_it_changes(tmp_path, folder):
    store = FsspecStore(f"memory://bucket-{tmp_path.name}", (), tmp_path / "cache")
    store.put(folder, "store://x")
    first = store.fetch("store://x")
    os.utime(first, (1, 1))
    assert store.fetch("store://x") == first
    assert os.stat(first).st_mtime == 1
    (folder / "b.txt").write_text("changed")
    store.put(folder, "store://x")
    second = store.fetch("store://x")
    assert second != first
    with open(f"{second}/b.txt") as file:
        assert file.read() == "changed"


def test_a_broken_download_leaves_nothing_that_looks_whole(tmp_path, folder, monkeypatch):
    store = FsspecStore(f"memory://bucket-{tmp_path.name}", (), tmp_path / "cache")
    store.put(folder, "store://x")
    memory = type(fsspec.filesystem("memory"))
    cat_file = memory.cat_file

    def break_at_second(self, path, start=None, end=None, **kwargs):
        if path.endswith("a.txt"):
            raise OSError("connection reset")
        return cat_file(self, path, start, end, **kwargs)

    monkeypatch.setattr(memory, "cat_file", break_at_second)
    monkeypatch.setattr("workers.afar.WAITS_S", ())
    with pytest.raises(ArtifactMissing, match="connection reset"):
        store.fetch("store://x")
    monkeypatch.undo()
    assert measure(Path(store.fetch("store://x"))) == (3, FOLDER_HASH)
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_what_is_withheld_does_not_appear(store, folder):
    with pytest.raises(Withheld):
        store.put(folder, "store://x", lambda: False)
    assert not store.exists("store://x")


def test_what_is_withheld_in_the_middle_leaves_what_was_there(tmp_path, folder):
    store = FsspecStore(f"file://{tmp_path}/store", (), tmp_path / "cache")
    store.put(folder, "store://x")
    (folder / "b.txt").write_text("new")
    answers = iter([True, False])
    with pytest.raises(Withheld):
        store.put(folder, "store://x", lambda: next(answers))
    assert (tmp_path / "store/x/b.txt").read_text() == "b"
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["x"]


def test_what_is_removed_is_gone(store, folder):
    store.put(folder, "store://x/made")
    store.put(folder, "store://x/more")
    store.remove("store://x/made")
    store.remove("store://x/never")
    assert not store.exists("store://x/made")
    assert store.exists("store://x/more/b.txt")
    with pytest.raises(UnsafeURI):
        store.remove("store://../x")
