"""`manage.py controller`: schedules, ingests and looks after what runs, while it leads. Serves no requests.

Several may run; the others stand by until the leader is gone.
"""

import gc
import logging
import signal
import threading
import time
from typing import Any

from django.core.management.base import BaseCommand
from django.db import close_old_connections

from portal.jobs import bell, loop
from portal.jobs.leadership import Candidate
from portal.jobs.leases import Hearing
from portal.telemetry.ingest import LIST_S, Ingest
from portal.telemetry.sweeper import Sweeper
from portal.telemetry.upkeep import upkeep

log = logging.getLogger(__name__)
TICK_S = 0.5
"""A round comes this often, or when somebody rings."""
PAUSE_S = 0.02
"""However often somebody rings."""
UPKEEP_S, SELDOM_S = 1.0, 10.0


class Command(BaseCommand):
    help = "Schedule jobs, record what runs say, and end what is lost, until stopped."

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        candidate, hearing = Candidate(), Hearing()
        ingest, scheduling = Ingest(hearing=hearing, list_s=LIST_S), loop.Rounds()
        threads = [
            threading.Thread(target=candidate.run, args=(stop,), name="leadership"),
            threading.Thread(target=ingest.run, args=(stop, lambda: candidate.leads), name="ingest"),
            threading.Thread(target=Sweeper().run, args=(stop, lambda: candidate.leads), name="sweeper"),
        ]
        for thread in threads:
            thread.start()
        gc.freeze()  # what is there for good need not be looked through again in the middle of a round
        log.info("controller runs")
        upkeep_at = seldom_at = 0.0
        while not (bell.wait(stop, TICK_S) if candidate.leads else stop.wait(TICK_S)):
            if not candidate.leads:
                upkeep_at, seldom_at, scheduling = 0.0, 0.0, loop.Rounds()
                continue
            close_old_connections()
            try:
                if (now := time.monotonic()) >= upkeep_at:
                    upkeep_at = now + UPKEEP_S
                    upkeep(candidate.term, hearing, seldom=now >= seldom_at)
                    seldom_at = seldom_at if now < seldom_at else now + SELDOM_S
                if scheduling.tick():
                    ingest.begins()
            except Exception:  # a round that fails is tried again; the log has why
                log.exception("scheduling round failed")
                stop.wait(1.0)
            stop.wait(PAUSE_S)
        for thread in threads:
            thread.join()
        log.info("controller stopped")
