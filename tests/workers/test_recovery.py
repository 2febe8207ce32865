"""What a killed worker left is ended, delivered and cleared away at the next start."""

import subprocess
import sys

import pytest

from tests.workers.conftest import alive, check_complete, eventually
from workers.child import RUN_ENV
from workers.contract.events import Finished, Log, Started
from workers.contract.reasons import Reason
from workers.leases import MemoryLeaseBook
from workers.recovery import AlreadyRunning, own_runs, recover
from workers.sinks import MemorySink
from workers.spool import Spool


@pytest.fixture
def runs_dir(tmp_path):
    return tmp_path / "runs"


def leave(runs_dir, name, *events, shipped=False):
    run_dir = runs_dir / name
    run_dir.mkdir(parents=True)
    spool = Spool.of_run_dir(run_dir)
    spool.append(*events)
    if shipped:
        spool.mark_shipped(spool.size)
    return run_dir


def recovered(runs_dir, sink, book=None):
    for shipper in recover(runs_dir, sink, book or MemoryLeaseBook()):
        assert shipper.wait(20)
    return sink.envelopes


def test_a_run_without_an_end_gets_one_and_all_of_it_is_shipped(runs_dir):
    leave(runs_dir, "7-1", Started(pid=1), Log(text="hello"))
    finished = check_complete(recovered(runs_dir, MemorySink()))
    assert finished.reason is Reason.WORKER_STOPPED


def test_a_run_that_was_claimed_and_nothing_more_gets_an_end(runs_dir):
    (runs_dir / "7-1").mkdir(parents=True)
    (envelope,) = recovered(runs_dir, MemorySink())
    assert (envelope.job, envelope.attempt, envelope.seq, envelope.event.type) == (7, 1, 1, "finished")


def test_a_tokens_run_is_ended_under_its_token(runs_dir):
    leave(runs_dir, "7-1-ab12cd", Log(text="hello"))
    assert [envelope.token for envelope in recovered(runs_dir, MemorySink())] == ["ab12cd", "ab12cd"]


def test_a_run_whose_lease_is_anothers_by_now_ends_as_lost_and_what_it_said_is_told(runs_dir):
    leave(runs_dir, "7-1-ab12cd", Log(text="hello"))
    book = MemoryLeaseBook()
    book.whole, book.holders[7] = True, "2:other"
    said = recovered(runs_dir, MemorySink(), book)
    assert [envelope.event.type for envelope in said] == ["log", "finished"]
    assert check_complete(said).reason is Reason.NODE_LOST
    assert recovered(runs_dir, MemorySink(), book) == []


def test_a_run_with_an_end_keeps_it_and_is_shipped(runs_dir):
    leave(runs_dir, "7-2", Log(text="hello"), Finished(reason=Reason.COMPLETED))
    assert check_complete(recovered(runs_dir, MemorySink())).reason is Reason.COMPLETED


def test_a_run_that_was_shipped_is_not_shipped_again(runs_dir):
    leave(runs_dir, "7-2", Finished(reason=Reason.COMPLETED), shipped=True)
    assert recovered(runs_dir, MemorySink()) == []
    assert recovered(runs_dir, MemorySink()) == []


def test_other_things_in_the_folder_are_left_alone(runs_dir):
    for name in ("my-notes", "7-1-a-b", "07-1"):
        (runs_dir / name).mkdir(parents=True)
    assert recovered(runs_dir, MemorySink()) == []


def test_processes_of_a_left_run_are_killed_and_no_others(runs_dir):
    run_dir = leave(runs_dir, "7-1", Started(pid=1))

    def sleeper(marked):
        return subprocess.Popen(["sleep", "300"], env={RUN_ENV: marked}, start_new_session=True)

    survivor, stranger = sleeper(str(run_dir)), sleeper(str(runs_dir / "7-10"))
    try:
        recovered(runs_dir, MemorySink())
        assert not alive(survivor.pid)
        assert alive(stranger.pid)
    finally:
        for process in (survivor, stranger):
            process.kill()
            process.wait()


def test_one_worker_at_a_time_owns_the_runs(runs_dir):
    taken = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from workers.recovery import own_runs; lock = own_runs(pathlib.Path(sys.argv[1])); "
            "print('mine', flush=True); sys.stdin.read()",
            str(runs_dir),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert taken.stdout.readline() == b"mine\n"
    with pytest.raises(AlreadyRunning, match=str(runs_dir)):
        own_runs(runs_dir)
    taken.kill()
    taken.communicate()
    eventually(lambda: own_runs(runs_dir))
