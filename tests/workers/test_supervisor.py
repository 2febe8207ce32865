"""Every way an attempt can end: one Finished, last, with the right reason, and no process left."""

import hashlib
import json
import os
import signal

import pytest

from tests.workers.conftest import alive, eventually
from workers.artifacts import measure
from workers.contract.reasons import Reason
from workers.contract.spec import Order


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
    from workers.supervisor import run_attempt

    reason = run_attempt(
        bench.order(),
        runs_dir=bench.runs_dir,
        store=bench.store,
        sink=bench.sink,
        cancel=bench.cancel,
        stop=bench.stop,
        command=["/no/such/python"],
    )
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
