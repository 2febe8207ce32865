"""`manage.py controller`: the one process that schedules, sweeps and ingests. Serves no requests."""

import logging
import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand
from django.db import close_old_connections

from portal.jobs import loop
from portal.telemetry.ingest import Ingest

log = logging.getLogger(__name__)
TICK_S = 0.25
SWEEP_EVERY = 8


class Command(BaseCommand):
    help = "Schedule jobs, record what runs say, and end what is lost, until stopped."

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        ingest = threading.Thread(target=Ingest().run, args=(stop,), name="ingest")
        ingest.start()
        log.info("controller runs")
        rounds = 0
        while not stop.wait(TICK_S):
            close_old_connections()
            try:
                loop.tick()
                if rounds % SWEEP_EVERY == 0:
                    loop.sweep()
            except Exception:  # a round that fails is tried again; the log has why
                log.exception("scheduling round failed")
                stop.wait(1.0)
            rounds += 1
        ingest.join()
        log.info("controller stopped")
