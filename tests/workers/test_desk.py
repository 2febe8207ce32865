"""The desk: orders as they come off the queue, also bad ones; cancels before, during and after."""

import threading

import pytest

from tests.workers.conftest import FAKE_CHILD, check_complete, eventually, make_order
from workers.contract.events import RunningAttempt
from workers.contract.reasons import Reason
from workers.desk import Desk


@pytest.fixture
def desk(bench):
    made = Desk("testnode", bench.runs_dir, bench.store, bench.sink, FAKE_CHILD)
    yield made
    made.stop.set()


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"spec_version": 2}, Reason.UNSUPPORTED_SPEC, "spec_version"),
        ({"spec": {"kind": "dream"}}, Reason.UNSUPPORTED_SPEC, "dream"),
        ({"spec": {"kind": "launch", "model": "m", "temperature": -1}}, Reason.INVALID_INPUT, "temperature"),
        ({"model": None}, Reason.INVALID_INPUT, "model"),
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
    assert desk.running() == (RunningAttempt(job=1, attempt=1),)
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
