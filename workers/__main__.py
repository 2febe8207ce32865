"""`python -m workers` (or `liftoff-worker`): makes this machine a node of a portal, until SIGTERM or Ctrl-C.

Puts the parts together and takes them apart again. Doesn't know what any of them does inside.
"""

import logging
import os
import sys
import threading
from collections.abc import Sequence

from celery.signals import setup_logging, worker_ready, worker_shutting_down

from workers.app import make_app, make_worker
from workers.artifacts import FsspecStore
from workers.beats import Heart
from workers.contract.events import NodeProfile
from workers.contract.stopping import longest_stop_s
from workers.desk import Desk
from workers.exporter import WorkerCollector, start_exporter
from workers.held import Place
from workers.leases import RedisLeaseBook
from workers.nvml import open_nvml
from workers.occupants import occupants
from workers.probe import probe, sample_devices
from workers.recovery import AlreadyRunning, own_runs, recover
from workers.retention import Keeper, keep_from
from workers.settings import SettingsError, WorkerSettings, from_environment
from workers.shipping import drain
from workers.sinks import RedisSink
from workers.tasks import register

log = logging.getLogger("workers")

_DRAIN_S = 3.0


def main() -> int:
    """Exit status 2 when the settings are wrong, 3 when another worker owns the runs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)  # it prints whole orders
    try:
        return serve(from_environment(os.environ))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except AlreadyRunning as error:
        sys.stderr.write(f"{error}\n")
        return 3


def serve(settings: WorkerSettings, command: Sequence[str] | None = None) -> int:
    """Be a node until told to stop. `command` replaces `workers.runtimes` for every order.

    Raises SettingsError or AlreadyRunning before anything has begun.
    """
    os.environ.setdefault("LIFTOFF_NODE_ADDRESS", settings.address)
    keeper = Keeper(settings.runs_dir, settings.artifact_cache_dir, keep_from(os.environ))
    with own_runs(settings.runs_dir):
        sink, book = RedisSink(settings.redis_url), RedisLeaseBook(settings.redis_url)
        profile = _probe(settings)
        recover(settings.runs_dir, sink, book)
        store = FsspecStore(
            settings.store,
            settings.allowed_roots,
            settings.artifact_cache_dir,
            room=keeper.make_room,
            copies_local=settings.store_is_afar,
        )
        place = Place(settings.runs_dir, store, sink, settings.spool_limit_bytes)
        desk = Desk(settings.node, place, book, command, settings.stop_grace_s)
        desk.leases.start()
        heart = Heart(
            settings.node,
            sink,
            desk.running,
            lambda: _probe(settings),
            lambda: occupants(settings.runs_dir, open_nvml()),
        )
        exporter = start_exporter(
            settings.metrics_host,
            settings.metrics_port,
            WorkerCollector(lambda: len(desk.running()), sample_devices),
        )
        _connect_signals(desk)
        app = make_app(settings.redis_url, settings.node)
        register(app, desk)
        worker = make_worker(app, settings.node, len(profile.devices))
        heart.start()
        keeper.start()
        log.info("Node %s: %s.", settings.node, ", ".join(device.name for device in profile.devices))
        worker.start()
        desk.stop.set()
        keeper.stop()
        if not drain(_DRAIN_S):
            log.warning("Some events wait on disk; the next start delivers them.")
        heart.stop()
        desk.leases.stop()
        if exporter:
            exporter.shutdown()
        sink.close()
        book.close()
        return int(worker.exitcode or 0)


def _probe(settings: WorkerSettings) -> NodeProfile:
    return probe(settings.node, address=settings.address, home=settings.home, environment=os.environ)


def _connect_signals(desk: Desk) -> None:
    def stopping(**_: object) -> None:
        """Celery waits for its threads; the attempts in them must end.

        A worker that hasn't stopped by then leaves as it is; the guards and recovery do the rest.
        """
        desk.stop.set()
        last_resort = threading.Timer(longest_stop_s(desk.stop_grace_s), os._exit, args=[1])
        last_resort.daemon = True
        last_resort.start()

    def ready(**_: object) -> None:
        log.info("Ready for orders.")

    setup_logging.connect(lambda **_: None, weak=False)  # whoever calls `serve` has set it up
    worker_shutting_down.connect(stopping, weak=False)
    worker_ready.connect(ready, weak=False)


if __name__ == "__main__":
    sys.exit(main())
