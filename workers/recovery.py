"""What a worker that was killed has left behind: ends its runs and delivers their events.

Runs once, before a worker takes orders, and only one worker at a time owns a folder of runs. Doesn't know why the
worker was killed.
"""

import fcntl
import logging
import threading
from pathlib import Path
from typing import IO

from workers.child import kill_run
from workers.contract.events import Finished
from workers.contract.reasons import Reason
from workers.leases import Lease, LeaseBook, Standing
from workers.shipping import Shipper
from workers.sinks import EventSink
from workers.spool import Spool

log = logging.getLogger(__name__)

_LOCK_FILE = ".worker.lock"


class AlreadyRunning(RuntimeError):
    """Another worker process owns these runs; the message says which folder."""


def own_runs(runs_dir: Path) -> IO[str]:
    """Take the folder of runs for this process, until the returned file is closed. Raises AlreadyRunning."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    lock = (runs_dir / _LOCK_FILE).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise AlreadyRunning(
            f"Another worker is running on {runs_dir}; stop it, or give this one its own LIFTOFF_NODE_NAME."
        ) from error
    return lock


def recover(runs_dir: Path, sink: EventSink, book: LeaseBook) -> list[Shipper]:
    """End the runs without an end as worker_stopped, kill their processes, ship what wasn't shipped.

    A run whose lease is another's by now ends as node_lost; the portal keeps what it said and lets it change nothing.
    """
    shippers = []
    for run_dir in sorted(runs_dir.glob("*-*")):
        try:
            spool = Spool.of_run_dir(run_dir)
        except (ValueError, OSError) as error:
            log.warning("%s is left alone: %s", run_dir, error)
            continue
        if not spool.finished:
            killed = kill_run(run_dir)
            spool.append(_end_of(spool, book))
            log.warning("Attempt %s was left behind; ended it (%d processes killed).", run_dir.name, killed)
        if spool.shipped < spool.size:
            shippers.append(Shipper(spool, sink).start())
        else:
            spool.close()
    return shippers


def _end_of(spool: Spool, book: LeaseBook) -> Finished:
    lease = Lease(book, spool.job, spool.attempt, spool.token, 1, threading.Event())
    if lease.check() is Standing.LOST:
        return Finished(
            reason=Reason.NODE_LOST, detail="The attempt's lease went to another while its worker was gone."
        )
    return Finished(reason=Reason.WORKER_STOPPED, detail="The worker was restarted while the job ran.")
