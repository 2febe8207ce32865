"""Leases: what the book says, what a stopped process and a jumping clock make of it, and when a run may go on."""

import threading

import pytest

from tests.workers.conftest import eventually, redis_client
from workers.contract.names import EPOCH_FIELD, LEASES
from workers.leases import Clock, Lease, LeaseWatch, MemoryLeaseBook, Page, RedisLeaseBook, Standing
from workers.sinks import SinkDown

LEASE_S = 30.0


class Times:
    """Two clocks that a test sets."""

    def __init__(self) -> None:
        self.monotonic = 1_000.0
        self.wall = 2_000_000.0

    def pass_by(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


class CountingBook(MemoryLeaseBook):
    readings = 0

    def read(self, job: int) -> Page:
        self.readings += 1
        return super().read(job)


@pytest.fixture
def times():
    return Times()


@pytest.fixture
def book():
    made = CountingBook()
    made.whole, made.holders[7] = True, "2:mine"
    return made


@pytest.fixture
def lease(book, times):
    clock = Clock(lambda: times.monotonic, lambda: times.wall)
    return Lease(book, 7, 2, "mine", LEASE_S, threading.Event(), clock, pause=times.pass_by)


def test_held_until_the_book_names_another(lease, book):
    assert lease.check() is Standing.HELD
    book.holders[7] = "3:other"
    assert lease.check() is Standing.LOST
    assert lease.lost.is_set()
    book.holders[7] = "2:mine"
    assert lease.check() is Standing.LOST


@pytest.mark.parametrize("holder", ["2:other", "3:mine", "22:mine"])
def test_attempt_and_token_must_both_be_right(lease, book, holder):
    book.holders[7] = holder
    assert lease.check() is Standing.LOST


def test_a_line_that_is_missing_is_looked_for_twice(lease, book):
    del book.holders[7]
    lease._pause = lambda _: book.holders.update({7: "2:mine"})
    assert lease.check() is Standing.HELD
    del book.holders[7]
    lease._pause = lambda _: None
    assert lease.check() is Standing.LOST


def test_a_book_that_is_not_whole_proves_nothing(lease, book, times):
    book.whole = False
    book.holders.clear()
    times.pass_by(3600)
    assert lease.check() is Standing.UNKNOWN
    assert lease.may_store(give_up=lambda: False)


def test_an_order_without_a_token_has_no_lease_to_lose(book, times):
    lease = Lease(book, 7, 1, "", LEASE_S, threading.Event(), Clock(lambda: times.monotonic, lambda: times.wall))
    times.pass_by(3600)
    assert not lease.due
    assert lease.check() is Standing.HELD


def watched(lease):
    watch = LeaseWatch()
    watch.add(lease)
    return watch


def test_the_book_is_read_every_third_of_a_lease(lease, book, times):
    watch = watched(lease)
    for _ in range(60):
        watch.tick()
        times.pass_by(1)
    assert book.readings == 5
    watch.discard(lease)
    times.pass_by(60)
    watch.tick()
    assert book.readings == 5


def test_a_process_that_was_stopped_reads_before_it_does_anything_else(lease, book, times):
    """SIGSTOP: both clocks went on. Nothing may be stored, even if an upload wakes before the watch."""
    times.pass_by(LEASE_S + 1)
    book.holders[7] = "3:other"
    assert not lease.may_store(give_up=lambda: False)
    assert lease.lost.is_set()


def test_a_machine_that_slept_shows_on_the_wall_clock_alone(lease, book, times):
    times.wall += LEASE_S + 1
    book.holders[7] = "3:other"
    watched(lease).tick()
    assert lease.lost.is_set()


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_costs_a_reading_at_most(lease, book, times, jump):
    times.wall += jump
    watch = watched(lease)
    for _ in range(10):
        watch.tick()
        times.pass_by(0.5)
    assert book.readings <= 1
    for _ in range(60):  # and the watch goes on as before
        watch.tick()
        times.pass_by(0.5)
    assert 2 <= book.readings <= 5
    assert not lease.lost.is_set()


def test_a_book_that_comes_back_is_read_at_once(lease, book, times):
    watch = watched(lease)
    book.down.set()
    for _ in range(120):
        watch.tick()
        times.pass_by(0.5)
    assert not lease.lost.is_set()
    book.holders[7] = "3:other"
    book.down.clear()
    watch.tick()
    assert lease.lost.is_set()


def test_nothing_is_stored_while_the_book_is_away_for_too_long(lease, book, times):
    book.down.set()
    assert lease.may_store(give_up=lambda: False)  # read a moment ago: nobody else can hold it yet

    times.pass_by(LEASE_S)
    waited = []

    def give_up() -> bool:
        waited.append(times.monotonic)
        if len(waited) == 3:
            book.down.clear()
        return False

    assert lease.may_store(give_up)
    assert len(waited) == 3
    book.down.set()
    times.pass_by(LEASE_S)
    assert not lease.may_store(give_up=lambda: True)
    assert not lease.lost.is_set()


def test_a_watch_in_its_thread_finds_what_is_lost(book):
    lost = threading.Event()
    watch = LeaseWatch().start()
    watch.add(Lease(book, 7, 2, "mine", 0.3, lost))
    book.holders[7] = "3:other"
    eventually(lost.is_set)
    watch.stop()


def test_the_book_in_redis(own_redis):
    book, client = RedisLeaseBook(own_redis.url), redis_client(own_redis.url)
    assert book.read(7) == Page(False, None)
    client.hset(LEASES, mapping={"7": "2:mine"})
    assert book.read(7) == Page(False, "2:mine")
    client.hset(LEASES, EPOCH_FIELD, "1")
    assert book.read(7) == Page(True, "2:mine")
    assert book.read(8) == Page(True, None)
    own_redis.stop()
    with pytest.raises(SinkDown):
        book.read(7)
    own_redis.start()
    client.hset(LEASES, mapping={"7": "3:other", EPOCH_FIELD: "2"})
    assert book.read(7) == Page(True, "3:other")
