"""A store on a mount and on S3, two nodes with disks of their own: each fetches once, whole, verified, or says why."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from tests.s3_server import S3, forget_connections, s3_server
from tests.workers.conftest import Bench, make_order
from workers import copies
from workers.afar import ArtifactDamaged, ArtifactMissing, NoRoom, StoreUnreachable
from workers.artifacts import FsspecStore
from workers.contents import measure, sha256_of
from workers.contract.events import Started
from workers.contract.keeping import Limit
from workers.contract.names import UnsafeURI
from workers.contract.order import Order
from workers.contract.reasons import Reason
from workers.held import Place
from workers.retention import make_room
from workers.spool import Spool

NODES = ("a", "b")


@pytest.fixture(scope="module")
def server():
    with s3_server() as started:
        yield started


@pytest.fixture(params=["mount", "s3"])
def root(request, tmp_path, monkeypatch):
    """Where the store is: a local path that is taken for a mount, or a bucket."""
    if request.param == "mount":
        return f"file://{tmp_path}/mounted"
    return _s3_root(request.getfixturevalue("server"), tmp_path, monkeypatch)


@pytest.fixture
def s3_root(server, tmp_path, monkeypatch):
    return _s3_root(server, tmp_path, monkeypatch)


def _s3_root(server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    forget_connections()
    return f"{server.root}-{tmp_path.name}"


@pytest.fixture
def stores(root, tmp_path):
    """Node's name → its store: two nodes, each with a disk of its own."""
    return {node: _store(root, tmp_path / node) for node in NODES}


def _store(root: str, home: Path, room: copies.Room | None = None) -> FsspecStore:
    return FsspecStore(root, (), home / "cache/artifacts", room, copies_local=True)


@pytest.fixture
def model(tmp_path):
    """A folder of weights of 1 MiB in two shards."""
    folder = tmp_path / "made/model"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model-1.safetensors").write_bytes(os.urandom(700_000))
    (folder / "deep/model-2.safetensors").write_bytes(os.urandom(300_000))
    (folder / "empty").touch()
    return folder


@pytest.fixture
def asked(monkeypatch):
    """Bytes of each piece that was asked of a store, from any thread. Pieces are of 64 KiB."""
    monkeypatch.setattr(copies, "PIECE", 64 * 1024)
    sizes: list[int] = []
    _before_each_piece(monkeypatch, lambda size: sizes.append(size))
    return sizes


def _before_each_piece(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
    """Do something with the size of each piece before it is fetched; what that raises, the store raises."""
    for protocol in ("file", "s3"):
        kind = fsspec.get_filesystem_class(protocol)
        cat_file = kind.cat_file

        def acting(self, path, *, start, end, cat_file=cat_file):
            act(end - start)
            return cat_file(self, path, start=start, end=end)

        monkeypatch.setattr(kind, "cat_file", acting)
    forget_connections()  # those that are there have the method as it was


def _break_after(monkeypatch: pytest.MonkeyPatch, pieces: int, error: Exception) -> None:
    """The line breaks after so many pieces."""
    left = threading.Semaphore(pieces)

    def act(_size: int) -> None:
        if not left.acquire(blocking=False):
            raise error

    _before_each_piece(monkeypatch, act)
    monkeypatch.setattr("workers.afar.WAITS_S", ())


def test_what_one_node_stored_another_fetches_to_its_own_disk(stores, model, tmp_path):
    size, sha256 = stores["a"].put(model, "store://models/m")
    fetched = Path(stores["b"].fetch("store://models/m", sha256))
    assert measure(fetched) == (size, sha256) == measure(model)
    assert fetched.is_relative_to(tmp_path / "b")
    assert stores["b"].is_copy(str(fetched))
    assert not (tmp_path / "a/cache").exists()


def test_an_upload_that_the_store_lost_is_made_again(s3_root, model, tmp_path, monkeypatch):
    kind = fsspec.get_filesystem_class("s3")
    put_file, lost = kind.put_file, threading.Semaphore(1)

    def losing(self, *args, **kwargs):
        if lost.acquire(blocking=False):
            raise FileNotFoundError("The specified upload does not exist.")
        return put_file(self, *args, **kwargs)

    monkeypatch.setattr(kind, "put_file", losing)
    monkeypatch.setattr("workers.afar.WAITS_S", (0.01,))
    forget_connections()
    store = _store(s3_root, tmp_path / "a")
    _, sha256 = store.put(model, "store://models/m")
    assert measure(Path(store.fetch("store://models/m", sha256))) == measure(model)


def test_one_file_comes_back_as_well(stores, model):
    size, sha256 = stores["a"].put(model / "config.json", "store://datasets/x/train.jsonl")
    fetched = Path(stores["b"].fetch("store://datasets/x/train.jsonl", sha256))
    assert (fetched.name, measure(fetched)) == ("train.jsonl", (size, sha256))


def test_putting_again_leaves_nothing_of_what_was_there(stores, model):
    stores["a"].put(model, "store://models/m")
    (model / "empty").unlink()
    (model / "config.json").write_text("{ }")
    _, sha256 = stores["a"].put(model, "store://models/m")
    assert measure(Path(stores["b"].fetch("store://models/m")))[1] == sha256
    stores["a"].remove("store://models/m")
    assert not stores["b"].exists("store://models/m/config.json")


def test_a_download_that_broke_off_goes_on_where_it_stopped(stores, model, asked, monkeypatch):
    size, sha256 = stores["a"].put(model, "store://models/m")
    with monkeypatch.context() as broken:
        _break_after(broken, 8, OSError("connection reset by peer"))
        with pytest.raises(StoreUnreachable, match="connection reset by peer"):
            stores["b"].fetch("store://models/m", sha256)
    came = sum(asked)
    assert 0 < came < size
    assert measure(Path(stores["b"].fetch("store://models/m", sha256))) == (size, sha256)
    assert sum(asked) == size


def test_a_line_that_breaks_for_a_moment_breaks_no_run(stores, model, monkeypatch):
    size, sha256 = stores["a"].put(model, "store://models/m")
    failures = threading.Semaphore(2)

    def act(_size: int) -> None:
        if failures.acquire(blocking=False):
            raise ConnectionResetError("connection reset by peer")

    _before_each_piece(monkeypatch, act)
    monkeypatch.setattr("workers.afar.WAITS_S", (0.01, 0.01))
    assert measure(Path(stores["b"].fetch("store://models/m", sha256))) == (size, sha256)
    assert not failures.acquire(blocking=False)


def test_all_runs_of_a_node_share_one_download(root, stores, model, asked, tmp_path):
    size, sha256 = stores["a"].put(model, "store://models/m")
    # As many processes have it: each run opens the lock for itself.
    runs = [_store(root, tmp_path / "b") for _ in range(4)]
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda run=run: found.append(run.fetch("store://models/m", sha256))) for run in runs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert sum(asked) == size
    assert [path.name for path in (tmp_path / "b/cache/artifacts").iterdir()] == [sha256]


def test_the_same_content_under_another_name_is_not_fetched_again(stores, model, asked):
    size, sha256 = stores["a"].put(model, "store://models/m")
    stores["a"].put(model, "store://jobs/7/model")
    first = stores["b"].fetch("store://models/m", sha256)
    assert stores["b"].fetch("store://jobs/7/model", sha256) == first
    assert sum(asked) == size


def test_another_hash_than_stored_is_refused_and_nothing_of_it_is_kept(stores, model, tmp_path):
    _, sha256 = stores["a"].put(model, "store://models/m")
    (model / "config.json").write_text("{1}")
    stores["a"].put(model, "store://models/m")
    with pytest.raises(ArtifactDamaged) as refused:
        stores["b"].fetch("store://models/m", sha256)
    assert str(refused.value).startswith("'store://models/m' has the SHA-256 ")
    assert f"not {sha256[:12]}" in str(refused.value)
    assert list((tmp_path / "b/cache/artifacts").iterdir()) == []


def test_a_part_that_was_spoiled_on_the_disk_is_fetched_anew(stores, model, asked, monkeypatch, tmp_path):
    size, sha256 = stores["a"].put(model, "store://models/m")
    with monkeypatch.context() as broken:
        _break_after(broken, 8, OSError("connection reset by peer"))
        with pytest.raises(StoreUnreachable):
            stores["b"].fetch("store://models/m", sha256)
    (part,) = (tmp_path / "b/cache/artifacts").glob("*.part")
    largest = max((path for path in part.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.write(b"spoiled")
    assert measure(Path(stores["b"].fetch("store://models/m", sha256))) == (size, sha256)


def test_a_disk_that_fills_up_is_said(stores, model, asked, monkeypatch):
    _, sha256 = stores["a"].put(model, "store://models/m")
    _break_after(monkeypatch, 3, OSError(28, "No space left on device"))
    with pytest.raises(NoRoom, match=r"^The node's disk is full; 'store://models/m' has no room on it\.$"):
        stores["b"].fetch("store://models/m", sha256)


def test_a_disk_without_room_is_not_begun_to_be_filled(stores, model, asked, monkeypatch):
    _, sha256 = stores["a"].put(model, "store://models/m")
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(NoRoom, match=r"^A copy of .* has no room on the node's disk, .* free at .*\.$"):
        stores["b"].fetch("store://models/m", sha256)
    assert asked == []


class TestLimit:
    """Copies of 1 MB each on a node that keeps 2.5 MB of them."""

    LIMIT = Limit(size=2_500_000)
    HOURS = 7200

    @pytest.fixture
    def fetch(self, root, stores, tmp_path):
        """Puts a model of that name and size, fetches it to node b, as if it were that many seconds later."""
        cache, runs = tmp_path / "b/cache/artifacts", tmp_path / "b/runs"

        def fetch(name: str, size: int = 1_000_000, later_s: float = 0) -> Path:
            made = tmp_path / name
            made.mkdir()
            (made / "weights").write_bytes(os.urandom(size))
            _, sha256 = stores["a"].put(made, f"store://models/{name}")

            def room(wanted: int) -> None:
                make_room(runs, cache, self.LIMIT, wanted, time.time() + later_s)

            return Path(_store(root, tmp_path / "b", room).fetch(f"store://models/{name}", sha256))

        return fetch

    def test_the_copy_that_was_not_used_for_longest_makes_room(self, fetch):
        first, second = fetch("first"), fetch("second")
        os.utime(first.parent, (1, 1))
        third = fetch("third", later_s=self.HOURS)
        assert [path.exists() for path in (first, second, third)] == [False, True, True]

    def test_what_a_run_reads_or_was_used_just_now_is_not_taken(self, fetch, tmp_path):
        read, young = fetch("read"), fetch("young")
        run = tmp_path / "b/runs/7-1"
        run.mkdir(parents=True)
        (run / "order.json").write_text(f'{{"model": {{"uri": "{read}"}}}}')
        Spool(run, 7, 1, "").append(Started(pid=1))
        os.utime(read.parent, (1, 1))
        with pytest.raises(NoRoom, match=r"^A copy of .* has no room: the node keeps at most .*KEEP_CACHE_GIB.*\.$"):
            fetch("third")
        assert read.exists()
        assert young.exists()

    def test_what_is_larger_than_all_of_it_is_refused(self, fetch):
        with pytest.raises(NoRoom, match="LIFTOFF_KEEP_CACHE_GIB"):
            fetch("large", 3_000_000)


class TestTwoNodes:
    """A run on one node, and one on another that goes on from what it left, each with its own folders."""

    @pytest.fixture
    def places(self, bench, stores, tmp_path):
        return {node: Place(tmp_path / node / "runs", stores[node], bench.sink) for node in NODES}

    @pytest.fixture
    def order(self, stores, tmp_path, bench):
        """An order whose model and dataset lie in the store with the hashes that the catalog would know."""
        raw = make_order(tmp_path / "seed")
        _, model = stores["a"].put(tmp_path / "seed/models/tiny", "store://models/tiny")
        train, test = tmp_path / "seed/datasets/train.jsonl", tmp_path / "seed/test.jsonl"
        test.write_text('{"text": "b"}\n')
        for split in (train, test):
            stores["a"].put(split, f"store://datasets/{split.name}")
        raw["model"]["sha256"] = model
        raw["dataset"] |= {"sha256": sha256_of(train, test), "test_uri": "store://datasets/test.jsonl"}

        def order(**changes: object) -> Order:
            bench.book.whole, bench.book.holders[1] = True, f"1:{changes.get('token', '')}"
            return Order.model_validate(raw | changes)

        return order

    def test_the_second_goes_on_from_what_the_first_left(self, bench: Bench, places, order, stores, tmp_path):
        assert bench.run("checkpoints", order(), places["a"]) is Reason.COMPLETED
        told = bench.events("checkpoint")[-1]
        assert bench.run("train", order(token="t1"), places["a"]) is Reason.COMPLETED
        adapter = next(it for it in bench.events("artifact") if it.kind == "adapter")
        made = order(
            token="t2",
            adapter={"name": "x", "uri": adapter.uri, "sha256": adapter.sha256},
            resume={"uri": told.uri, "step": told.step, "sha256": told.sha256},
        )
        assert bench.run("train", made, places["b"]) is Reason.COMPLETED
        (written,) = (tmp_path / "b/runs").glob("*/order.json")
        local = Order.model_validate_json(written.read_text())
        assert measure(Path(local.adapter.uri))[1] == adapter.sha256
        assert measure(Path(local.resume.uri)) == (told.bytes, told.sha256)
        for path in (local.model.uri, local.dataset.train_uri, local.adapter.uri, local.resume.uri):
            assert Path(path).is_relative_to(tmp_path / "b")
        assert [event.name for event in bench.events("phase")][-2:] == ["fetching resume", "training"]
        assert bench.events("progress")[-1].unit == "MiB"

    @pytest.mark.parametrize("field", ["model", "dataset"])
    def test_an_input_of_another_hash_starts_nothing(self, bench, places, order, field):
        changed = order()
        part = getattr(changed, field).model_copy(update={"sha256": "0" * 64})
        assert bench.run("train", changed.model_copy(update={field: part}), places["b"]) is Reason.ARTIFACT_DAMAGED
        assert bench.events("started") == []
        assert bench.finished().detail.startswith(f"{field}: 'store://")
        assert not bench.finished().reason.may_retry

    def test_a_dataset_in_shards_comes_whole_whatever_its_hash_is_of(self, bench, places, order, stores, tmp_path):
        shards = tmp_path / "seed/shards"
        shards.mkdir()
        for number in range(3):
            (shards / f"part-{number}.jsonl").write_text('{"text": "a"}\n' * number)
        stores["a"].put(shards, "store://datasets/shards")
        changed = order()
        dataset = changed.dataset.model_copy(update={"train_uri": "store://datasets/shards", "sha256": "0" * 64})
        assert bench.run("train", changed.model_copy(update={"dataset": dataset}), places["b"]) is Reason.COMPLETED
        (written,) = (tmp_path / "b/runs").glob("*/order.json")
        local = Order.model_validate_json(written.read_text())
        assert measure(Path(local.dataset.train_uri)) == measure(shards)

    def test_a_checkpoint_that_is_damaged_is_left_out(self, bench, places, order, stores, model):
        stores["a"].put(model, "store://jobs/1/checkpoints/step-4")
        resume = {"uri": "store://jobs/1/checkpoints/step-4", "step": 4, "sha256": "0" * 64}
        assert bench.run("train", order(resume=resume), places["b"]) is Reason.COMPLETED
        assert any("The checkpoint of step 4 can't be had" in line for line in bench.log())

    def test_the_childs_environment_holds_no_word_of_the_store(self, bench, places, order):
        bench.run("print_environment", order(), places["b"])
        seen = "".join(bench.log())
        assert "AWS_" not in seen
        assert "test-secret-of-the-store" not in seen

    def test_a_cancel_ends_a_download(self, bench, places, order, monkeypatch):
        begun = threading.Event()

        def act(_size: int) -> None:
            begun.set()
            bench.cancel.wait(20)

        _before_each_piece(monkeypatch, act)
        running = threading.Thread(target=bench.run, args=("train", order(), places["b"]))
        running.start()
        assert begun.wait(20)
        bench.cancel.set()
        running.join(timeout=20)
        assert bench.finished().reason is Reason.CANCELLED


def test_a_store_that_cannot_be_reached_is_said_and_what_was_fetched_is_used_all_the_same(
    bench, model, tmp_path, monkeypatch
):
    with s3_server() as server:
        root = _s3_root(server, tmp_path, monkeypatch)
        monkeypatch.setattr("workers.afar.WAITS_S", ())
        store = _store(root, tmp_path / "b")
        _, sha256 = store.put(model, "store://models/m")
        kept = store.fetch("store://models/m", sha256)
        server.stop()
        assert store.fetch("store://models/m", sha256) == kept
        order = bench.order(model={"name": "m", "uri": "store://models/n", "sha256": "0" * 64}, dataset=None)
        assert bench.run("train", order, Place(tmp_path / "runs-b", store, bench.sink)) is Reason.STORE_UNREACHABLE
    detail = bench.finished().detail
    assert detail.startswith("model: The artifact store can't be reached for 'store://models/n': ")
    assert detail.count("\n") == 0
    assert Reason.STORE_UNREACHABLE.may_retry


def test_a_mount_that_is_gone_is_said(tmp_path):
    store = _store(f"file://{tmp_path}/mounted", tmp_path / "b")
    (tmp_path / "mounted").rmdir()
    with pytest.raises(StoreUnreachable, match="isn't there"):
        store.fetch("store://models/m")


def test_a_bucket_that_refuses_these_credentials_is_said(s3_root, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "find", refuse)
    with pytest.raises(ArtifactMissing, match="can't be read or written: Forbidden"):
        _store(s3_root, tmp_path / "b").fetch("store://models/m")


def test_a_name_that_climbs_out_of_the_copy_is_refused(tmp_path):
    remote = fsspec.filesystem("memory")
    remote.store[f"/climbing-{tmp_path.name}/m/../../../escaped"] = remote.store.get("x") or _memory_file(remote)
    store = _store(f"memory://climbing-{tmp_path.name}", tmp_path / "b")
    with pytest.raises(UnsafeURI, match="leads out"):
        store.fetch("store://m")
    assert not list(tmp_path.rglob("escaped"))


def _memory_file(remote: object) -> object:
    remote.pipe_file("/one-file", b"x")
    return remote.store["/one-file"]
