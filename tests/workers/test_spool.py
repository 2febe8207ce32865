"""Events on disk: numbered, whole, shipped in order, whatever happens between."""

import os
import threading

import pytest

from tests.workers.conftest import check_complete, eventually, read_stream, redis_client
from workers.contract.events import Finished, Heartbeat, Log, Metric
from workers.contract.names import SPOOL_FILE, job_stream
from workers.contract.reasons import Reason
from workers.shipping import Shipper
from workers.sinks import MemorySink, RedisSink, SinkDown
from workers.spool import Spool

DONE = Finished(reason=Reason.COMPLETED)


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "3-2"
    path.mkdir()
    return path


def test_many_threads_number_without_gaps(run_dir):
    spool = Spool(run_dir, 3, 2)

    def write() -> None:
        for step in range(200):
            spool.append(Metric(step=step, values={"loss": 1.0}), Log(text="x"))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spool.append(DONE)
    sink = MemorySink()
    assert Shipper(spool, sink).start().wait(20)
    check_complete(sink.envelopes)
    assert len(sink.envelopes) == 4 * 200 * 2 + 1


def test_nothing_comes_after_finished(run_dir):
    spool = Spool(run_dir, 3, 2)
    spool.append(Log(text="a"), DONE, Log(text="b"))
    spool.append(DONE)
    assert spool.last_seq == 2
    assert len((run_dir / SPOOL_FILE).read_text().splitlines()) == 2


def test_a_line_cut_off_by_a_crash_is_dropped_and_its_number_used_again(run_dir):
    Spool(run_dir, 3, 2).append(Log(text="a"), Log(text="b"))
    with (run_dir / SPOOL_FILE).open("a") as file:
        file.write('{"job":3,"attempt":2,"seq":3,"at":1.0,"ev')
    spool = Spool.of_run_dir(run_dir)
    spool.append(DONE)
    sink = MemorySink()
    assert Shipper(spool, sink).start().wait(20)
    check_complete(sink.envelopes)
    assert [envelope.seq for envelope in sink.envelopes] == [1, 2, 3]


def test_a_shipper_that_is_rewound_sends_again_from_there_and_goes_on(run_dir):
    spool, sink = Spool(run_dir, 3, 2), MemorySink()
    spool.append(*[Log(text=f'"seq":{number}') for number in range(9)])
    shipper = Shipper(spool, sink).start()
    eventually(lambda: len(sink.envelopes) == 9)
    assert shipper.rewind(6)
    eventually(lambda: len(sink.envelopes) == 12)
    assert shipper.rewind(100)
    spool.append(DONE)
    assert shipper.wait(20)
    assert [envelope.seq for envelope in sink.envelopes] == [*range(1, 10), 7, 8, 9, 10]
    assert not shipper.rewind(0)


def test_a_line_with_a_hole_in_it_is_dropped(run_dir):
    """As a crash of the machine may leave it."""
    spool = Spool(run_dir, 3, 2)
    spool.append(Log(text="a"))
    whole = spool.size
    spool.append(Log(text="b" * 100))
    data = bytearray((run_dir / SPOOL_FILE).read_bytes())
    data[whole + 70 : whole + 90] = bytes(20)
    (run_dir / SPOOL_FILE).write_bytes(data)
    again = Spool.of_run_dir(run_dir)
    assert (again.last_seq, again.size, again.finished) == (1, whole, False)


class Interrupted(MemorySink):
    """Fails every third time."""

    calls = 0

    def ship(self, envelopes):
        self.calls += 1
        if self.calls % 3 == 0:
            raise SinkDown("now and then")
        super().ship(envelopes)


def test_an_unreliable_sink_gets_everything_once_and_in_order(run_dir):
    spool = Spool(run_dir, 3, 2)
    spool.append(*[Log(text="x" * 2000) for _ in range(1000)], DONE)
    sink = Interrupted()
    assert Shipper(spool, sink).start().wait(60)
    assert len(sink.batches) > 3
    check_complete(sink.envelopes)


def test_shipping_goes_on_where_it_was(run_dir):
    first = Spool(run_dir, 3, 2)
    first.append(Log(text="a"))
    first.mark_shipped(first.size)
    second = Spool.of_run_dir(run_dir)
    second.append(DONE)
    sink = MemorySink()
    assert Shipper(second, sink).start().wait(20)
    assert [envelope.seq for envelope in sink.envelopes] == [2]


def test_a_line_longer_than_a_batch_is_shipped(run_dir):
    spool = Spool(run_dir, 3, 2)
    spool.append(Log(text="x" * 1_000_000), DONE)
    sink = MemorySink()
    assert Shipper(spool, sink).start().wait(20)
    check_complete(sink.envelopes)


def test_a_full_disk_leaves_whole_lines(run_dir, monkeypatch):
    spool = Spool(run_dir, 3, 2)
    spool.append(Log(text="a"))
    before = (run_dir / SPOOL_FILE).read_bytes()
    write = os.write

    def half_then_full(descriptor, data):
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:-50])

    monkeypatch.setattr("workers.spool.os.write", half_then_full)
    with pytest.raises(OSError, match="No space"):
        spool.append(Log(text="y" * 200))
    monkeypatch.undo()
    assert (run_dir / SPOOL_FILE).read_bytes() == before
    spool.append(DONE)
    assert spool.last_seq == 2


def test_an_outage_of_a_real_broker_loses_nothing(run_dir, own_redis):
    spool = Spool(run_dir, 3, 2)
    shipper = Shipper(spool, RedisSink(own_redis.url)).start()
    client = redis_client(own_redis.url)
    spool.append(Log(text="before"))
    eventually(lambda: client.xlen(job_stream(3)))
    own_redis.stop()
    for number in range(100):
        spool.append(Log(text=f"during {number}"))
    assert not shipper.wait(0.5)
    own_redis.start()
    spool.append(Log(text="after"), DONE)
    assert shipper.wait(30)
    envelopes = read_stream(own_redis.url, 3)
    check_complete(envelopes)
    assert [it.event.text for it in envelopes[:-1]] == ["before", *[f"during {n}" for n in range(100)], "after"]


def test_heartbeats_travel_as_json(own_redis):
    sink = RedisSink(own_redis.url)
    sink.beat(Heartbeat(node="n1", at=1.5))
    ((_, fields),) = redis_client(own_redis.url).xrange("liftoff:nodes")
    assert Heartbeat.model_validate_json(fields[b"beat"]) == Heartbeat(node="n1", at=1.5)


def test_a_broker_that_is_away_is_said_so():
    with pytest.raises(SinkDown):
        RedisSink("redis://127.0.0.1:1/0").beat(Heartbeat(node="n1", at=1.5))
