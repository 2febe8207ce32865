"""Run a command so that nothing of it outlives its owner: `python guard.py -- COMMAND…`.

The owner holds this process's standard input. When that closes, however the owner ended, every descendant is killed,
also those that left the process group (torchrun's ranks have sessions of their own): on Linux the guard is the
subreaper of all of them. SIGTERM is passed on to the command's process group; what is left of the tree after the
grace period is killed. A number on standard input says the same as SIGTERM, with so many seconds of grace; a later
one may only shorten it. Ends as the command ended: the same exit status, or by the same signal.
Standard library only. Doesn't know what it runs, nor why it is told to stop.
"""

import argparse
import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path

GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL, where nothing else is said."""

CANNOT_START = 127
"""Exit status when the command can't be executed, as in a shell."""

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Guard:
    """One command, its whole tree of processes, and the pipe that keeps it alive."""

    def __init__(self, command: list[str], grace_s: float) -> None:
        self._grace_s = grace_s
        self._kill_at = float("inf")
        self._told_to_stop = False
        self._status: int | None = None
        self._wake = os.pipe()
        for end in self._wake:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.pid = _start(command)
        """The command's process id; it leads a session and a process group of its own."""

    def watch(self) -> int:
        """Wait for the command, the owner or the end of the grace period; kill what is left. The wait status."""
        while self._reap() and self._status is None:
            left = self._kill_at - time.monotonic()
            if left <= 0:
                break
            ready, _, _ = select.select([0, self._wake[0]], [], [], None if left == float("inf") else left)
            if self._wake[0] in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake[0], 4096)
            if self._told_to_stop:
                self._told_to_stop = False
                self._end_within(self._grace_s)
            if 0 in ready:
                told = os.read(0, 4096)
                if not told:
                    break
                for word in told.split():
                    self._end_within(float(word))
        self._kill_tree()
        return self._status if self._status is not None else signal.SIGKILL

    def _end_within(self, grace_s: float) -> None:
        if self._kill_at == float("inf"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)

    def _on_sigterm(self, *_: object) -> None:
        self._told_to_stop = True

    def _reap(self) -> bool:
        """Collect the dead. False when no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self._status = status

    def _kill_tree(self) -> None:
        """SIGKILL to every descendant until none is left; an orphan comes back as a child of the subreaper."""
        while self._reap():
            for pid in _descendants(os.getpid()) or [self.pid]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.01)


def _start(command: list[str]) -> int:
    """Fork and execute in a new session, without standard input. Returns the process id."""
    guard = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        # A guard that is killed itself takes the command along; its owner sweeps up what that leaves.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(CANNOT_START)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], command)  # noqa: S606 - this is the point of the module
    except OSError as error:
        os.write(2, f"Cannot start {command[0]!r}: {error.strerror}.\n".encode())
    finally:
        os._exit(CANNOT_START)


def _descendants(root: int) -> list[int]:
    """Process ids below `root`, from /proc; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # pid (name, may hold spaces and brackets) state ppid …
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the process group and the pipe must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def end_as(status: int) -> int:
    """Exit status for a wait status; a death by signal is repeated on this process."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return os.waitstatus_to_exitcode(status)


def main(arguments: list[str]) -> int:
    """Exit status 2 for a wrong command line."""
    parser = argparse.ArgumentParser(description="Run a command so that nothing of it outlives standard input.")
    parser.add_argument("--grace", type=float, default=GRACE_S, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--pid-fd", type=int, help="descriptor that is told the command's process id")
    parser.add_argument("command", nargs="+", help="after --")
    given = parser.parse_args(arguments)
    if given.pid_fd is not None:
        os.set_inheritable(given.pid_fd, False)  # the reader waits until it is closed
    guard = Guard(given.command, given.grace)
    if given.pid_fd is not None:
        with os.fdopen(given.pid_fd, "w") as told:
            told.write(str(guard.pid))
    return end_as(guard.watch())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
