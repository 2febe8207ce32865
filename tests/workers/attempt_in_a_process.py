"""`attempt_in_a_process.py FOLDER BEHAVIOUR`: runs one attempt, prints its process ids; to be killed by a test."""

import sys
import threading
from pathlib import Path

from tests.workers.conftest import FAKE_CHILD, eventually, make_order
from workers.artifacts import FsspecStore
from workers.contract.order import Order
from workers.held import Held, Place
from workers.sinks import MemorySink
from workers.supervisor import run_attempt

if __name__ == "__main__":
    folder, sink = Path(sys.argv[1]), MemorySink()

    def tell() -> None:
        results = eventually(lambda: [it.event for it in sink.envelopes if it.event.type == "result"])
        print(*results[0].values["pids"], flush=True)

    threading.Thread(target=tell, daemon=True).start()
    store = FsspecStore(f"file://{folder}/store", (), folder / "cache")
    order = Order.model_validate(make_order(folder / "store"))
    run_attempt(order, Held(1, 1), Place(folder / "runs", store, sink), [*FAKE_CHILD, sys.argv[2]])
