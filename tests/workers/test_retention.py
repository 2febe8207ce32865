"""A node's disk: what ended and was delivered goes by age and size; what runs, waits or is read stays."""

import os
import shutil
import threading
import time
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.conftest import eventually
from workers import retention
from workers.artifacts import FsspecStore
from workers.contract.events import Finished, Log, Started
from workers.contract.keeping import Limit
from workers.contract.names import ORDER_FILE, SHIPPED_FILE
from workers.contract.reasons import Reason
from workers.recovery import recover
from workers.retention import Keep, Keeper, keep_from, sweep
from workers.settings import SettingsError
from workers.sinks import MemorySink
from workers.spool import Spool

DAY_S = 86_400
NOW = time.time() + 1000 * DAY_S
"""Runs are written today, and looked at long after."""
NO_LIMIT = Limit()
KEEP = Keep(runs=Limit(days=30), cache=Limit(days=30))


@pytest.fixture
def runs_dir(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


def run(runs_dir, name, *events, shipped=True, output=0, order=""):
    """A run directory with these events, all delivered or none, and so many bytes of output."""
    run_dir = runs_dir / name
    (run_dir / "output").mkdir(parents=True)
    (run_dir / "output" / "weights.bin").write_bytes(b"x" * output)
    if order:
        (run_dir / ORDER_FILE).write_text(order)
    spool = Spool.of_run_dir(run_dir)
    spool.append(*events)
    if shipped:
        spool.mark_shipped(spool.size)
    spool.close()
    return run_dir


ENDED = (Started(pid=1), Log(text="x" * 100_000), Finished(reason=Reason.COMPLETED, detail="y" * 100_000))


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".trash")


class TestRuns:
    def test_a_run_that_ended_and_was_delivered_goes_when_it_is_too_old(self, runs_dir, cache_dir):
        run_dir = run(runs_dir, "7-1-ab", *ENDED, output=5000)
        ended_at = time.time()
        assert sweep(runs_dir, cache_dir, KEEP, ended_at + 29 * DAY_S) == []
        assert run_dir.exists()
        (gone,) = sweep(runs_dir, cache_dir, KEEP, ended_at + 31 * DAY_S)
        assert gone.why == "older than 30 days"
        assert gone.thing.size > 5000
        assert names(runs_dir) == []
        assert not list((runs_dir / ".trash").iterdir())

    @pytest.mark.parametrize(
        ("events", "shipped"),
        [((), True), (ENDED[:2], True), (ENDED, False)],
        ids=["claimed just now", "runs", "not delivered"],
    )
    def test_any_other_stays_whatever_the_limits(self, runs_dir, cache_dir, events, shipped):
        run(runs_dir, "7-1", *events, shipped=shipped, output=10_000)
        assert sweep(runs_dir, cache_dir, Keep(Limit(1, 1), Limit(1, 1)), NOW) == []
        assert names(runs_dir) == ["7-1"]

    def test_one_of_which_the_last_events_wait_stays_until_they_arrive(self, runs_dir, cache_dir):
        run_dir = run(runs_dir, "7-1", *ENDED)
        whole = (run_dir / SHIPPED_FILE).read_text()
        (run_dir / SHIPPED_FILE).write_text(str(int(whole) - 1))
        assert sweep(runs_dir, cache_dir, KEEP, NOW) == []
        (run_dir / SHIPPED_FILE).write_text(whole)
        assert len(sweep(runs_dir, cache_dir, KEEP, NOW)) == 1

    def test_one_whose_lease_went_to_another_is_never_delivered_and_goes(self, runs_dir, cache_dir):
        run(runs_dir, "7-1", Started(pid=1), Finished(reason=Reason.NODE_LOST), shipped=False)
        assert len(sweep(runs_dir, cache_dir, KEEP, NOW)) == 1

    def test_one_whose_last_line_was_cut_off_stays(self, runs_dir, cache_dir):
        run_dir = run(runs_dir, "7-1", *ENDED)
        with (run_dir / "spool.jsonl").open("r+b") as spool:
            spool.truncate(int((run_dir / SHIPPED_FILE).read_text()) - 1)
        assert sweep(runs_dir, cache_dir, KEEP, NOW) == []

    def test_other_folders_are_left_alone(self, runs_dir, cache_dir):
        run_dir = run(runs_dir, "7-1", *ENDED)
        shutil.copytree(run_dir, runs_dir / "copy-of-7-1")
        (runs_dir / "my-notes").mkdir()
        (runs_dir / "to-elsewhere").symlink_to(shutil.copytree(run_dir, runs_dir.parent / "7-1"))
        sweep(runs_dir, cache_dir, KEEP, NOW)
        assert names(runs_dir) == ["copy-of-7-1", "my-notes", "to-elsewhere"]
        assert (runs_dir.parent / "7-1" / "spool.jsonl").exists()

    def test_beyond_the_size_the_oldest_go_first_and_running_ones_count(self, runs_dir, cache_dir, monkeypatch):
        run(runs_dir, "1-1", Started(pid=1), output=2_000_000)
        for number, at in ((2, 300.0), (3, 100.0), (4, 200.0)):
            monkeypatch.setattr("workers.spool.time.time", lambda at=at: at)
            run(runs_dir, f"{number}-1", Finished(reason=Reason.COMPLETED), output=1_000_000)
        keep = Keep(runs=Limit(size=3_500_000), cache=NO_LIMIT)
        gone = sweep(runs_dir, cache_dir, keep, NOW)
        assert [item.thing.key.name for item in gone] == ["3-1", "4-1"]
        assert names(runs_dir) == ["1-1", "2-1"]

    def test_one_that_ended_just_now_stays_even_if_it_is_too_much(self, runs_dir, cache_dir):
        run(runs_dir, "7-1", *ENDED, output=10_000)
        assert sweep(runs_dir, cache_dir, Keep(Limit(size=1), NO_LIMIT), time.time() + 60) == []

    def test_what_was_half_removed_is_removed_next_time_and_is_no_run(self, runs_dir, cache_dir):
        half = runs_dir / ".trash" / "7-1.ab12"
        half.mkdir(parents=True)
        (half / "weights.bin").write_bytes(b"x")
        assert recover(runs_dir, MemorySink(), book=None) == []
        assert half.exists()
        sweep(runs_dir, cache_dir, KEEP, NOW)
        assert not half.exists()

    def test_a_run_that_cannot_be_removed_hinders_no_other(self, runs_dir, cache_dir, monkeypatch):
        run(runs_dir, "1-1", *ENDED)
        run(runs_dir, "2-1", *ENDED)
        rename = Path.rename

        def refuse(path, target):
            if path.name == "1-1":
                raise PermissionError(13, "Permission denied")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", refuse)
        assert [item.thing.key.name for item in sweep(runs_dir, cache_dir, KEEP, NOW)] == ["2-1"]
        assert names(runs_dir) == ["1-1"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3000)), max_size=6),
    st.integers(0, 40),
    st.integers(0, 8000),
)
def test_whatever_the_limits_nothing_is_lost(tmp_path_factory, drawn, days, size):
    """After a sweep every run that had something to say still says all of it at the next start."""
    folder = tmp_path_factory.mktemp("node")
    runs_dir = folder / "runs"
    waiting = []
    for number, (ended, shipped, output) in enumerate(drawn, 1):
        events = [Started(pid=1), Finished(reason=Reason.COMPLETED)] if ended else [Started(pid=1)]
        run(runs_dir, f"{number}-1", *events, shipped=shipped, output=output)
        if not (ended and shipped):
            waiting.append(f"{number}-1")
    runs_dir.mkdir(exist_ok=True)
    sweep(runs_dir, folder / "cache", Keep(Limit(days, size), NO_LIMIT), NOW)
    left = names(runs_dir)
    assert set(waiting) <= set(left)
    if days:
        assert left == waiting


class TestCopies:
    """The real cache of an artifact store that lies afar (in memory, which is no local disk)."""

    @pytest.fixture
    def afar(self, cache_dir):
        """(a store whose files are copied to the cache, function that puts a file into it)"""
        remote = fsspec.filesystem("memory")
        root = f"/afar-{time.monotonic_ns()}"

        def put(name, data=b"x" * 1000):
            remote.pipe_file(f"{root}/{name}", data)

        yield FsspecStore(f"memory:/{root}", (), cache_dir), put
        remote.rm(root, recursive=True)

    def test_one_goes_when_it_was_not_used_for_long_and_comes_again_when_asked_for(self, afar, runs_dir, cache_dir):
        store, put = afar
        put("models/m/config.json", b"{}")
        path = Path(store.fetch("store://models/m"))
        assert (path / "config.json").read_bytes() == b"{}"
        assert sweep(runs_dir, cache_dir, KEEP, time.time() + 29 * DAY_S) == []
        assert len(sweep(runs_dir, cache_dir, KEEP, time.time() + 31 * DAY_S)) == 1
        assert not path.exists()
        assert (Path(store.fetch("store://models/m")) / "config.json").read_bytes() == b"{}"

    def test_using_it_again_keeps_it(self, afar, runs_dir, cache_dir):
        store, put = afar
        put("models/m/config.json")
        path = Path(store.fetch("store://models/m"))
        os.utime(path.parent, (1, 1))
        store.fetch("store://models/m")
        assert sweep(runs_dir, cache_dir, KEEP, time.time() + DAY_S) == []
        os.utime(path.parent, (1, 1))
        assert len(sweep(runs_dir, cache_dir, KEEP, time.time() + DAY_S)) == 1

    def test_what_a_run_reads_stays_until_the_run_is_over(self, afar, runs_dir, cache_dir):
        store, put = afar
        for name in ("a", "b"):
            put(f"models/{name}/config.json")
        paths = {name: store.fetch(f"store://models/{name}") for name in ("a", "b")}
        order = f'{{"model": {{"uri": "{paths["a"]}"}}}}'
        run(runs_dir, "7-1", Started(pid=1), order=order)
        keep = Keep(NO_LIMIT, Limit(days=1, size=1))
        assert [str(item.thing.key) for item in sweep(runs_dir, cache_dir, keep, NOW)] == [str(Path(paths["b"]).parent)]
        assert Path(paths["a"]).exists()
        shutil.rmtree(runs_dir / "7-1")
        run(runs_dir, "7-1", *ENDED, order=order)
        assert len(sweep(runs_dir, cache_dir, keep, NOW)) == 1

    def test_one_that_is_used_while_it_is_being_chosen_stays(self, afar, runs_dir, cache_dir, monkeypatch):
        store, put = afar
        put("models/m/config.json")
        path = Path(store.fetch("store://models/m"))
        os.utime(path.parent, (1, 1))
        select = retention.select

        def slowly(*args, **more):
            chosen = select(*args, **more)
            store.fetch("store://models/m")
            return chosen

        monkeypatch.setattr(retention, "select", slowly)
        assert sweep(runs_dir, cache_dir, KEEP, time.time()) == []
        assert path.exists()

    def test_downloads_that_were_broken_off_go_too(self, runs_dir, cache_dir):
        broken = cache_dir / f"{'a' * 64}.{'b' * 32}"
        broken.mkdir(parents=True)
        (broken / "part.bin").write_bytes(b"x")
        os.utime(broken, (1, 1))
        sweep(runs_dir, cache_dir, KEEP, time.time())
        assert names(cache_dir) == []


class TestSettingsAndThread:
    def test_limits_come_from_the_environment_and_nonsense_is_refused(self):
        assert keep_from({}) == Keep(Limit(30, 100 * 2**30), Limit(30, 500 * 2**30))
        assert keep_from({"LIFTOFF_KEEP_RUNS_GIB": "0.5", "LIFTOFF_KEEP_CACHE_DAYS": "0"}) == Keep(
            Limit(30, 2**29), Limit(0, 500 * 2**30)
        )
        with pytest.raises(SettingsError, match=r"^LIFTOFF_KEEP_CACHE_GIB: 'lots' is no limit; .*\.$"):
            keep_from({"LIFTOFF_KEEP_CACHE_GIB": "lots"})

    def test_it_sweeps_at_the_start_and_again_and_survives_a_failure(self, runs_dir, cache_dir, monkeypatch):
        swept = threading.Semaphore(0)

        def fail(*args):
            swept.release()
            raise OSError("the disk is gone")

        monkeypatch.setattr(retention, "sweep", fail)
        monkeypatch.setattr(retention, "INTERVAL_S", 0.01)
        keeper = Keeper(runs_dir, cache_dir, KEEP)
        keeper.start()
        assert all(swept.acquire(timeout=20) for _ in range(3))
        keeper.stop()

    def test_its_first_sweep_is_a_real_one(self, runs_dir, cache_dir, monkeypatch):
        monkeypatch.setattr("workers.spool.time.time", lambda: 1000.0)
        run_dir = run(runs_dir, "7-1", *ENDED)
        monkeypatch.undo()
        keeper = Keeper(runs_dir, cache_dir, KEEP)
        keeper.start()
        eventually(lambda: not run_dir.exists())
        keeper.stop()
