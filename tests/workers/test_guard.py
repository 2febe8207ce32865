"""The guard ends as its command ends, and lets nothing outlive its owner."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.workers.conftest import HERE, ROOT, alive, eventually
from workers import guard

Process = subprocess.Popen[str]

# Prints the ids of: a grandchild in the group, one in a session of its own, and an orphan in a session of its own.
FAMILY = (
    "sleep 300 & echo $!; setsid sleep 300 & echo $!; (setsid sh -c 'echo $$; exec sleep 300' & ) ; echo $$; "
    "trap 'exit 9' TERM; wait; wait"
)


@pytest.fixture
def guarded() -> Iterator[object]:
    started: list[Process] = []

    def start(*command: str, grace_s: float = 3.0) -> Process:
        full = [sys.executable, guard.__file__, "--grace", str(grace_s), "--", *command]
        started.append(
            subprocess.Popen(
                full,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def family(process: Process) -> list[int]:
    assert process.stdout
    pids = [int(process.stdout.readline()) for _ in range(4)]
    assert all(alive(pid) for pid in pids)
    return pids


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_exit_status_is_passed_on(guarded, status):
    assert guarded("sh", "-c", f"exit {status}").wait(20) == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT])
def test_death_by_signal_is_passed_on(guarded, number):
    assert guarded("sh", "-c", f"kill -{number.value} $$").wait(20) == -number


def test_a_command_that_does_not_exist_is_named(guarded):
    process = guarded("/no/such/command")
    assert process.stdout.read() == "Cannot start '/no/such/command': No such file or directory.\n"
    assert process.wait(20) == guard.CANNOT_START


def test_closing_standard_input_kills_the_whole_tree(guarded):
    process = guarded("sh", "-c", FAMILY)
    pids = family(process)
    process.stdin.close()
    process.wait(20)
    assert [pid for pid in pids if alive(pid)] == []


def test_sigterm_reaches_the_command_and_the_rest_of_the_tree_goes_with_it(guarded):
    process = guarded("sh", "-c", FAMILY)
    pids = family(process)
    process.terminate()
    assert process.wait(20) == 9
    assert [pid for pid in pids if alive(pid)] == []


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace_period(guarded):
    process = guarded("sh", "-c", "trap '' TERM; setsid sleep 300 & echo $! $$; while :; do sleep 1; done", grace_s=0.3)
    pids = [int(word) for word in process.stdout.readline().split()]
    process.terminate()
    assert process.wait(20) == -signal.SIGKILL
    assert [pid for pid in pids if alive(pid)] == []


def test_a_grace_period_on_standard_input_counts_for_this_stop_and_may_be_shortened(guarded):
    # The shell itself says 'Terminated' of its sleep, on standard error.
    endless = "exec 2>/dev/null; trap 'echo told' TERM; echo $$; while :; do sleep 0.1; done"
    process = guarded("sh", "-c", endless, grace_s=0.3)
    pid = int(process.stdout.readline())
    os.write(process.stdin.fileno(), b"300\n")
    assert process.stdout.readline() == "told\n"
    assert alive(pid)
    os.write(process.stdin.fileno(), b"0\n")
    assert process.wait(20) == -signal.SIGKILL
    assert not alive(pid)


def test_what_the_command_leaves_behind_is_killed(guarded):
    process = guarded("sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!")
    left = int(process.stdout.readline())
    assert process.wait(20) == 0
    assert not alive(left)


def test_kill_9_of_the_owner_leaves_nothing(tmp_path):
    """A stand-in for the worker: holds a run_attempt, is killed, and can clean up nothing itself."""
    owner = subprocess.Popen(
        [sys.executable, str(HERE / "attempt_in_a_process.py"), str(tmp_path), "ignore_sigterm"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert len(pids) == 3
    assert all(alive(pid) for pid in pids)
    owner.kill()
    owner.communicate()
    eventually(lambda: not any(alive(pid) for pid in pids))
