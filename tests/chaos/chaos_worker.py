"""A whole worker whose orders run the chaos child, on a node that has as many CPU devices as LIFTOFF_CHAOS_DEVICES."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import workers.__main__ as worker
from workers.contract.events import NodeProfile
from workers.settings import from_environment

CHILD = [sys.executable, "-S", str(Path(__file__).with_name("chaos_child.py"))]


def _several_devices(*arguments: Any, **named: Any) -> NodeProfile:
    profile = _probe(*arguments, **named)
    count = int(os.environ["LIFTOFF_CHAOS_DEVICES"])
    devices = tuple(profile.devices[0].model_copy(update={"index": index}) for index in range(count))
    return profile.model_copy(update={"devices": devices})


_probe = worker.probe
worker.probe = _several_devices

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(worker.serve(from_environment(os.environ), command=CHILD))
