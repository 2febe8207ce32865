"""A second worker beside that of a running portal: another name, address and disk, the same Redis and store."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.stack import ROOT, Portal, free_port


@contextmanager
def second_node(portal: Portal, home: Path) -> Iterator[str]:
    """Its name; what it fetches from the store it copies first."""
    family = psutil.Process(portal.process.pid).children(recursive=True)
    (first,) = [process for process in family if process.cmdline()[1:] == ["-m", "workers"]]
    environment = {
        **first.environ(),
        "LIFTOFF_HOME": str(home),
        "LIFTOFF_STORE": portal.env.get("LIFTOFF_STORE", f"file://{portal.home / 'store'}"),
        "LIFTOFF_STORE_IS_AFAR": "1",
        "LIFTOFF_NODE_NAME": "second",
        "LIFTOFF_NODE_ADDRESS": "127.0.0.2",
        "LIFTOFF_METRICS_PORT": str(free_port()),
    }
    with (home / "worker.log").open("w") as log:
        command = [sys.executable, "-m", "workers"]
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield "second"
    finally:
        worker.terminate()
        worker.wait(60)


def runs_on(home: Path) -> list[psutil.Process]:
    """Processes of runs of a node with that home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LIFTOFF_RUN", "").startswith(str(home)) and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found
