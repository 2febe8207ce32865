"""The desk: orders as they come off the queue, also bad ones; cancels before, during and after."""

import subprocess
import sys
import threading

import psutil
import pytest

from tests.workers.conftest import FAKE_CHILD, alive, check_complete, eventually, make_order
from workers.child import RUN_ENV
from workers.contract.reasons import Reason
from workers.desk import Desk
from workers.spool import Spool


@pytest.fixture
def desk(bench):
    made = Desk("testnode", bench.place, bench.book, FAKE_CHILD)
    yield made
    made.stop.set()


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"spec_version": 2}, Reason.UNSUPPORTED_SPEC, "spec_version"),
        ({"spec": {"kind": "dream"}}, Reason.UNSUPPORTED_SPEC, "dream"),
        ({"spec": {"kind": "launch", "model": "m", "temperature": -1}}, Reason.INVALID_INPUT, "temperature"),
        ({"model": "tiny"}, Reason.INVALID_INPUT, "model"),
        ({"token": "../up"}, Reason.INVALID_INPUT, "token"),
        ({"node": "other"}, Reason.INVALID_INPUT, "'other'"),
    ],
)
def test_an_order_that_cannot_be_read_ends_with_a_sentence(desk, bench, changes, reason, detail):
    assert desk.start(make_order(bench.store_dir, **changes)) is reason
    finished = check_complete(bench.sink.envelopes)
    assert finished.reason is reason
    assert detail in finished.detail


@pytest.mark.parametrize("order", [{}, {"job": 1}, {"job": "1", "attempt": 1}, {"job": 1, "attempt": 0}, None, []])
def test_an_order_that_names_no_attempt_is_ignored(desk, bench, order):
    assert desk.start(order) is None
    assert bench.sink.envelopes == []


def test_unknown_fields_are_ignored(desk, bench):
    assert desk.start(make_order(bench.store_dir, from_the_future=1)) is Reason.COMPLETED


def test_a_cancel_that_comes_first_is_remembered(desk, bench):
    desk.cancel(1, 1)
    assert desk.start(make_order(bench.store_dir)) is Reason.CANCELLED
    assert desk.start(make_order(bench.store_dir, attempt=2)) is Reason.COMPLETED


def test_a_running_attempt_is_listed_and_can_be_cancelled(desk, bench):
    order = make_order(bench.store_dir, spec={"kind": "launch", "model": "tiny", "name": "ignore_sigterm"})
    reasons = []
    thread = threading.Thread(target=lambda: reasons.append(desk.start(order)), daemon=True)
    thread.start()
    eventually(lambda: bench.events("result"))
    (listed,) = desk.running()
    assert (listed.job, listed.attempt, listed.last_seq) == (1, 1, bench.sink.envelopes[-1].seq)
    assert desk.start(order) is None
    desk.cancel(1, 2)
    desk.cancel(1, 1)
    thread.join(20)
    assert reasons == [Reason.CANCELLED]
    assert desk.running() == ()


def test_after_the_stop_orders_end_at_once(desk, bench):
    desk.stop.set()
    assert desk.start(make_order(bench.store_dir)) is Reason.WORKER_STOPPED
    check_complete(bench.sink.envelopes)


def started(desk, bench, behaviour, **changes):
    """An order at work in the background; the list that its reason comes to."""
    spec = {"kind": "finetune", "model": "tiny", "dataset": "d", "name": behaviour}
    order = make_order(bench.store_dir, **{"spec": spec, **changes})
    reasons = []
    thread = threading.Thread(target=lambda: reasons.append(desk.start(order)), daemon=True)
    thread.start()
    eventually(lambda: bench.events("result"))
    return reasons


def test_a_preempted_attempt_saves_its_work_and_ends(desk, bench):
    reasons = started(desk, bench, "save_at_sigterm")
    desk.preempt(1, 1)
    assert eventually(lambda: reasons) == [Reason.PREEMPTED]
    check_complete(bench.sink.envelopes)
    assert [event.step for event in bench.events("checkpoint")] == [7]


def test_a_preemption_that_comes_first_is_remembered(desk, bench):
    desk.preempt(1, 1)
    assert desk.start(make_order(bench.store_dir)) is Reason.PREEMPTED
    assert desk.start(make_order(bench.store_dir, attempt=2)) is Reason.COMPLETED


def test_a_revoked_attempt_ends_as_lost(desk, bench):
    reasons = started(desk, bench, "save_at_sigterm", token="mine")
    desk.revoke(1, 1, "another")
    assert [it.token for it in desk.running()] == ["mine"]
    desk.revoke(1, 1, "mine")
    assert eventually(lambda: reasons) == [Reason.NODE_LOST]
    assert bench.events("checkpoint") == []
    assert Spool.of_run_dir(bench.runs_dir / "1-1-mine").ended is Reason.NODE_LOST


def test_an_attempt_that_lost_its_lease_unknowingly_is_over_before_another_begins_on_its_device(desk, bench):
    bench.book.whole = True
    bench.book.holders = {1: "1:first", 2: "1:second"}
    spec = {"kind": "launch", "model": "tiny", "name": "ignore_sigterm"}
    orders = [
        make_order(bench.store_dir, job=job, token=token, spec=spec) for job, token in ((1, "first"), (2, "second"))
    ]
    reasons = {}
    threads = [
        threading.Thread(target=lambda order=order: reasons.update({order["job"]: desk.start(order)}), daemon=True)
        for order in orders
    ]
    threads[0].start()
    eventually(lambda: bench.events("result"))
    bench.book.holders[1] = "2:elsewhere"
    threads[1].start()
    eventually(lambda: [event for event in bench.sink.envelopes if event.job == 2 and event.event.type == "result"])
    ended = next(one for one in bench.sink.envelopes if one.job == 1 and one.event.type == "finished")
    began = next(one for one in bench.sink.envelopes if one.job == 2 and one.event.type == "started")
    assert ended.event.reason is Reason.NODE_LOST
    assert ended.at <= began.at
    desk.stop.set()
    threads[1].join(20)


def test_an_attempt_that_was_revoked_before_it_came_is_never_started(desk, bench):
    desk.revoke(1, 1, "mine")
    assert desk.start(make_order(bench.store_dir, token="mine")) is None
    assert not bench.runs_dir.exists()
    assert bench.sink.envelopes == []


def test_what_a_run_that_is_over_has_left_is_killed_when_it_is_revoked(desk, bench):
    def left_by(name):
        folder = str(bench.runs_dir.resolve() / name)
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={RUN_ENV: folder})

    left, others = left_by("1-1-mine"), left_by("1-1-another")
    try:
        eventually(lambda: RUN_ENV in psutil.Process(left.pid).environ())
        desk.revoke(1, 1, "mine")
        assert not alive(left.pid)
        assert others.poll() is None
    finally:
        for process in (left, others):
            process.kill()
            process.wait()


def test_events_are_sent_again_for_a_run_at_work_and_for_one_that_is_over(desk, bench, caplog):
    reasons = started(desk, bench, "fail_at_sigterm", token="t")
    first = [envelope.seq for envelope in bench.sink.envelopes]
    desk.resend(1, 1, "t", 0)
    eventually(lambda: len(bench.sink.envelopes) >= 2 * len(first))
    assert [envelope.seq for envelope in bench.sink.envelopes].count(1) == 2
    desk.cancel(1, 1)
    assert eventually(lambda: reasons) == [Reason.CANCELLED]
    last = bench.sink.envelopes[-1]

    desk.resend(1, 1, "t", last.seq - 1)
    eventually(lambda: bench.sink.envelopes.count(last) == 2)
    desk.resend(1, 1, "t", 0)
    eventually(lambda: bench.sink.envelopes.count(last) == 3)
    assert [envelope.seq for envelope in bench.sink.envelopes][-last.seq :] == list(range(1, last.seq + 1))

    desk.resend(1, 1, "other", 0)
    assert "its folder is gone" in caplog.text
