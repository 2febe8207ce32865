"""Every way an attempt can end: one Finished, last, with the right reason, and no process left."""

import hashlib
import json
import os
import signal

import pytest

from tests.workers.conftest import alive, eventually
from workers.artifacts import FsspecStore
from workers.contents import measure
from workers.contract.order import Order
from workers.contract.reasons import Reason
from workers.leases import MemoryLeaseBook, Page
from workers.supervisor import run_attempt


def test_a_run_that_completes(bench):
    assert bench.run("train") is Reason.COMPLETED
    assert bench.finished().reason is Reason.COMPLETED
    envelopes = bench.sink.envelopes
    assert envelopes[0].event.type == "started"
    assert {(envelope.job, envelope.attempt) for envelope in envelopes} == {(1, 1)}
    assert [event.values["loss"] for event in bench.events("metric") if event.step] == [3.0, 1.5, 1.0]
    assert bench.log() == ["saved"]


def test_output_is_stored_with_its_hashes(bench):
    bench.run("train")
    artifacts = {event.name: event for event in bench.events("artifact")}
    assert {name: event.kind for name, event in artifacts.items()} == {
        "adapter": "adapter",
        "manifest.json": "manifest",
        "notes.txt": "file",
    }
    stored = bench.store_dir / "runs/1-1"
    assert artifacts["notes.txt"].sha256 == hashlib.sha256(b"n").hexdigest()
    assert (artifacts["adapter"].bytes, artifacts["adapter"].sha256) == measure(stored / "adapter")
    assert (stored / "adapter/adapter_model.safetensors").read_bytes() == b"weights"
    assert artifacts["adapter"].uri == "store://runs/1-1/adapter"
    assert bench.events("artifact")[-1].kind == "manifest"


def test_the_order_is_written_with_local_paths_for_this_user_only(bench):
    bench.run("train")
    path = bench.runs_dir / "1-1/order.json"
    order = Order.model_validate_json(path.read_text())
    assert order.model.uri == str(bench.store_dir / "models/tiny")
    assert order.dataset.train_uri == str(bench.store_dir / "datasets/train.jsonl")
    assert path.stat().st_mode & 0o077 == 0


def test_the_childs_own_word_on_its_failure(bench):
    assert bench.run("fail") is Reason.NAN_LOSS
    assert bench.finished().detail == "The loss was NaN at step 3; token [redacted]."
    assert bench.events("failed") == []


def test_an_exception_gives_its_line(bench):
    assert bench.run("crash") is Reason.CRASHED
    assert bench.finished().detail == "Exit status 1: ZeroDivisionError: division by zero"


def test_death_by_signal_names_the_signal(bench):
    assert bench.run("kill_itself") is Reason.KILLED
    assert "SIGKILL" in bench.finished().detail


def test_kill_9_from_outside_of_the_process_in_started(bench):
    running = bench.start("ignore_sigterm")
    pids = running.pids()
    assert bench.events("started")[0].pid == pids[0]
    os.kill(pids[0], signal.SIGKILL)
    assert running.ended() is Reason.KILLED
    assert bench.finished().reason is Reason.KILLED
    assert [pid for pid in pids if alive(pid)] == []


def test_kill_9_of_the_guard_leaves_nothing_either(bench):
    running = bench.start("ignore_sigterm")
    pids = running.pids()
    with open(f"/proc/{pids[0]}/stat") as stat:
        guard_pid = int(stat.read().rpartition(")")[2].split()[1])
    os.kill(guard_pid, signal.SIGKILL)
    assert running.ended() is Reason.KILLED
    bench.finished()
    assert [pid for pid in pids if alive(pid)] == []


def test_cancel_ends_the_whole_tree_even_what_ignores_it(bench):
    running = bench.start("ignore_sigterm")
    pids = running.pids()
    assert all(alive(pid) for pid in pids)
    bench.cancel.set()
    assert running.ended() is Reason.CANCELLED
    assert bench.finished().reason is Reason.CANCELLED
    assert [pid for pid in pids if alive(pid)] == []


def test_a_child_that_fails_because_of_the_cancel_is_cancelled(bench):
    running = bench.start("fail_at_sigterm")
    running.pids()
    bench.cancel.set()
    assert running.ended() is Reason.CANCELLED
    assert bench.finished().reason is Reason.CANCELLED


def test_stopping_the_worker_ends_its_runs(bench):
    running = bench.start("fail_at_sigterm")
    pids = running.pids()
    bench.stop.set()
    assert running.ended() is Reason.WORKER_STOPPED
    assert bench.finished().reason is Reason.WORKER_STOPPED
    assert not alive(pids[0])


def test_a_cancel_before_the_start_starts_nothing(bench):
    bench.cancel.set()
    assert bench.run("train") is Reason.CANCELLED
    assert bench.finished().reason is Reason.CANCELLED
    assert bench.events("started") == []


def test_a_duplicate_order_does_nothing(bench):
    bench.run("train")
    before = bench.sink.envelopes
    assert bench.run("crash") is None
    assert bench.sink.envelopes == before


def test_the_same_numbers_under_another_token_are_another_attempt(bench):
    assert bench.run("train", bench.order(token="first")) is Reason.COMPLETED
    assert bench.run("train", bench.order(token="second")) is Reason.COMPLETED
    assert bench.run("train", bench.order(token="second")) is None
    assert {envelope.token for envelope in bench.sink.envelopes} == {"first", "second"}


def test_a_command_that_cannot_start(bench):
    order = bench.order()
    reason = run_attempt(order, bench.hold(order), bench.place, ["/no/such/python"])
    assert reason is Reason.CRASHED
    assert "/no/such/python" in bench.finished().detail


@pytest.mark.parametrize(
    ("field", "uri", "reason"),
    [
        ("model", "store://models/absent", Reason.ARTIFACT_MISSING),
        ("model", "store://../../etc", Reason.INVALID_INPUT),
        ("model", "/etc/passwd", Reason.INVALID_INPUT),
        ("model", "https://example.org/model", Reason.INVALID_INPUT),
        ("adapter", "store://adapters/absent", Reason.ARTIFACT_MISSING),
    ],
)
def test_an_input_that_cannot_be_had(bench, field, uri, reason):
    order = bench.order(**{field: {"name": "x", "uri": uri}})
    assert bench.run("train", order) is reason
    assert bench.finished().detail.startswith(
        f"{field}: {uri!r}" if reason is Reason.INVALID_INPUT else f"{field}: Nothing"
    )
    assert bench.events("started") == []


def test_output_that_links_out_of_the_run_is_not_stored(bench):
    assert bench.run("link_out") is Reason.CRASHED
    assert "symbolic link" in bench.finished().detail
    assert not (bench.store_dir / "runs/1-1/passwords").exists()


def test_a_runs_folder_that_cannot_be_written_is_said(bench):
    bench.runs_dir.write_text("a file")
    assert bench.run("train") is Reason.CRASHED
    assert str(bench.runs_dir) in bench.finished().detail


def test_the_environment_is_scrubbed(bench, monkeypatch):
    for name in ("DATABASE_URL", "REDIS_URL", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "LIFTOFF_SECRET", "MY_VARIABLE"):
        monkeypatch.setenv(name, "leaked")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    bench.run("print_environment")
    seen = json.loads("".join(bench.log()))
    assert "leaked" not in seen.values()
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["LC_ALL"] == "C.UTF-8"
    assert seen["TOKENIZERS_PARALLELISM"] == "false"
    assert seen["PATH"] == os.environ["PATH"]


def test_the_orders_gpus_are_the_ones_the_child_sees(bench):
    order = bench.order(devices=[{"kind": "cuda", "index": 2}, {"kind": "cuda", "index": 5}])
    bench.run("print_environment", order)
    seen = json.loads("".join(bench.log()))
    assert seen["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert seen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_secrets_in_the_output_are_redacted(bench):
    bench.run("leak", bench.order(serve_token="the-serving-token"))
    assert bench.log() == [
        "serving with [redacted]",
        "Authorization: Bearer [redacted]",
        "hub token [redacted]",
        "key [redacted] password=[redacted]",
        "redis://user:[redacted]@host:6379/0",
    ]


def test_a_flood_of_lines_is_counted_and_keeps_its_end_and_its_metrics(bench):
    bench.run("flood")
    lines = bench.log()
    assert len(lines) < 5_000
    assert lines[-1] == "the very last line"
    dropped = sum(int(line.split()[1]) for line in lines if line.endswith("lines dropped"))
    shown = [line for line in lines if not line.endswith("lines dropped")]
    assert dropped + len(shown) == 20_001
    assert [event.values["loss"] for event in bench.events("metric") if event.step] == [1.0]


def test_a_progress_bar_is_shown_at_intervals_and_at_its_end(bench):
    bench.run("bar")
    assert 1 <= len(bench.log()) < 20
    assert bench.log()[-1] == "100%|####| 100/100"


def test_what_a_child_may_not_say_is_left_out_with_a_word(bench):
    assert bench.run("say_too_much") is Reason.CRASHED
    bench.finished()
    (unknown,) = bench.events("unheard_of")
    assert unknown.x == 1
    assert [event.values for event in bench.events("metric")] == [{"grad_norm": 1.0}]
    notes = [event.text for event in bench.events("log") if event.stream == "supervisor"]
    assert any("'finished'" in note for note in notes)
    assert any("not json" in note for note in notes)
    assert any("loss" in note and "not finite" in note for note in notes)


def test_use_is_sampled_while_it_runs(bench):
    running = bench.start("ignore_sigterm")
    metric = eventually(lambda: bench.events("metric"))[0]
    bench.cancel.set()
    running.ended()
    assert metric.step is None
    assert metric.values["rss_bytes"] > 0
    assert metric.values["cpu_percent"] >= 0


def test_an_outage_of_the_sink_delays_events_and_loses_none(bench):
    bench.sink.down.set()
    assert bench.run("many") is Reason.COMPLETED
    assert bench.sink.envelopes == []
    bench.sink.down.clear()
    eventually(lambda: bench.events("finished"))
    bench.finished()
    assert [event.step for event in bench.events("metric") if event.step] == list(range(1, 2001))


def holders(bench, token="t"):
    """A book that says this attempt holds its lease."""
    bench.book.whole, bench.book.holders[1] = True, f"1:{token}"
    return bench.order(token=token)


def test_checkpoints_go_to_the_store_and_the_last_two_stay(bench):
    assert bench.run("checkpoints", holders(bench)) is Reason.COMPLETED
    told = bench.events("checkpoint")
    assert [event.step for event in told] == [1, 2, 3, 4]
    folder = bench.store_dir / "runs/1-1/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-3", "step-4"]
    assert (folder / "step-4/state").read_text() == "4"
    assert told[-1].uri == "store://runs/1-1/checkpoints/step-4"
    assert (told[-1].bytes, told[-1].sha256) == measure(folder / "step-4")


@pytest.mark.parametrize(
    ("behaviour", "keep_last", "stay"),
    [
        ("checkpoints", 3, [2, 3, 4]),
        ("checkpoints_of_which_the_first_is_best", 2, [1, 3, 4]),
    ],
)
def test_as_many_checkpoints_stay_as_the_spec_says_and_the_best(bench, behaviour, keep_last, stay):
    spec = {"kind": "finetune", "model": "tiny", "dataset": "d", "checkpoints": {"keep_last": keep_last}}
    assert bench.run(behaviour, bench.order(spec=spec)) is Reason.COMPLETED
    folder = bench.store_dir / "runs/1-1/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{step}" for step in stay]
    assert [event.step for event in bench.events("checkpoint") if event.best] == [1] * (1 in stay)


def test_a_checkpoint_made_just_before_a_crash_is_stored(bench):
    assert bench.run("checkpoint_and_crash") is Reason.CRASHED
    assert [event.step for event in bench.events("checkpoint")] == [3]
    bench.finished()


def test_a_checkpoint_that_cannot_be_stored_is_said_and_the_run_goes_on(bench, monkeypatch):
    put = FsspecStore.put

    def full(self, local, uri, allowed):
        if "checkpoints" in uri:
            raise OSError(28, "No space left on device")
        return put(self, local, uri, allowed)

    monkeypatch.setattr(FsspecStore, "put", full)
    assert bench.run("checkpoint_and_crash") is Reason.CRASHED
    assert bench.events("checkpoint") == []
    assert any("step 3 could not be stored" in line and "No space left" in line for line in bench.log())


@pytest.mark.parametrize(("word", "reason"), [("stop", Reason.WORKER_STOPPED), ("preempt", Reason.PREEMPTED)])
def test_a_soft_stop_gives_time_to_save(bench, word, reason):
    running = bench.start("save_slowly_at_sigterm")
    pids = running.pids()
    (bench.stop if word == "stop" else bench.held.preempt).set()
    assert running.ended() is reason
    assert [event.step for event in bench.events("checkpoint")] == [7]
    assert bench.finished().reason is reason
    assert not alive(pids[0])


def test_a_cancel_during_a_soft_stop_does_not_wait_for_it(bench):
    running = bench.start("ignore_sigterm")
    pids = running.pids()
    bench.stop.set()
    eventually(lambda: any("Stopping" in line for line in bench.log()))
    bench.cancel.set()
    assert running.ended() is Reason.CANCELLED
    assert [pid for pid in pids if alive(pid)] == []


def test_what_comes_to_its_end_while_it_is_stopped_has_completed(bench):
    running = bench.start("complete_at_sigterm")
    running.pids()
    bench.held.preempt.set()
    assert running.ended() is Reason.COMPLETED
    assert (bench.store_dir / "runs/1-1/adapter").is_dir()


def test_a_served_model_that_is_stopped_has_not_completed(bench):
    spec = {"kind": "launch", "model": "tiny"}
    running = bench.start("complete_at_sigterm", bench.order(spec=spec, dataset=None))
    running.pids()
    bench.stop.set()
    assert running.ended() is Reason.WORKER_STOPPED


def test_an_attempt_whose_lease_is_anothers_is_killed_and_stores_nothing_more(bench):
    order = holders(bench)
    running = bench.start("ignore_sigterm", order)
    pids = running.pids()
    bench.held.revoked.set()
    assert running.ended() is Reason.NODE_LOST
    assert [pid for pid in pids if alive(pid)] == []
    assert not (bench.store_dir / "runs").exists()
    assert bench.finished().reason is Reason.NODE_LOST


def test_an_order_that_comes_too_late_starts_nothing(bench):
    order = holders(bench)
    bench.book.holders[1] = "2:another"
    assert bench.run("train", order) is Reason.NODE_LOST
    assert bench.events("started") == []
    assert not (bench.runs_dir / "1-1-t/output").exists()


def test_results_are_not_stored_once_the_lease_is_anothers(bench):
    order = holders(bench)

    class Book(MemoryLeaseBook):
        """The lease goes to another when the run is over."""

        def read(self, job):
            saved = (bench.runs_dir / "1-1-t/output/notes.txt").exists()
            return Page(True, "2:another" if saved else "1:t")

    moved = bench._replace(book=Book())
    assert moved.run("train", order) is Reason.NODE_LOST
    assert not (bench.store_dir / "runs").exists()
    assert bench.events("artifact") == []


def test_a_run_goes_on_from_a_checkpoint_of_the_store(bench):
    (bench.store_dir / "old/step-5").mkdir(parents=True)
    (bench.store_dir / "old/step-5/state").write_text("5")
    bench.run("print_resume", bench.order(resume={"uri": "store://old/step-5", "step": 5}))
    said, line = bench.log()
    assert said == "Goes on from step 5, which is in the store at store://old/step-5."
    given = json.loads(line)
    assert (given["uri"], given["step"]) == (str(bench.store_dir / "old/step-5"), 5)


def test_a_run_whose_checkpoint_is_gone_begins_at_the_beginning_and_says_so(bench):
    bench.run("print_resume", bench.order(resume={"uri": "store://old/step-5", "step": 5}))
    word, resume = bench.log()
    assert "training begins at the beginning: resume: Nothing is at" in word
    assert resume == "null"


def test_a_flood_of_events_is_merged_and_counted(bench):
    assert bench.run("many_events") is Reason.COMPLETED
    steps = [event.step for event in bench.events("metric") if event.step is not None]
    assert len(steps) < 10_000
    assert steps[-1] == 59_999
    assert steps == sorted(set(steps))
    assert bench.events("progress")[-1].done == 59_999
    assert bench.events("result")[-1].values == {"step": 59_999}
    merged = sum(int(line.split()[1]) for line in bench.log() if "merged" in line)
    assert merged + len(steps) == 60_000


def test_a_run_that_spools_too_much_ends_with_a_clear_reason(bench):
    place = bench.place._replace(spool_limit_bytes=1024**2)
    assert bench.run("endless_events", place=place) is Reason.CRASHED
    assert "more than 1 MiB of events" in bench.finished().detail
    assert (bench.runs_dir / "1-1/spool.jsonl").stat().st_size < 20 * 1024**2


def test_a_log_that_is_too_long_is_cut_off_and_the_run_goes_on(bench):
    place = bench.place._replace(spool_limit_bytes=200_000)
    assert bench.run("endless_log", place=place) is Reason.COMPLETED
    lines = bench.log()
    assert any(line.startswith("… the log has reached") for line in lines)
    assert lines[-1] == "y" * 390 + " 19999"
    dropped = sum(int(line.split()[1]) for line in lines if line.endswith("lines dropped"))
    assert dropped + sum(line.startswith("y") for line in lines) == 20_000
    assert sum(map(len, lines)) < 150_000
