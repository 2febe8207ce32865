"""Check the node, load the model, listen, say so and how long each took, and answer until SIGTERM; then let what was
begun end.

Knows nothing of who ordered it, nor of how any engine works.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from workers.contract.measured import MEASURED
from workers.contract.preflight import Report
from workers.contract.startup import StartUp
from workers.runtimes.base import Run, invalid
from workers.runtimes.measuring import Meter
from workers.runtimes.preflight import storage
from workers.runtimes.preflight.runtime import before_launch
from workers.runtimes.serve.api import make_app
from workers.runtimes.serve.engine import Engine
from workers.runtimes.serve.engines import choose, loader
from workers.runtimes.serve.reading import read_ahead
from workers.runtimes.serve.reporting import Reporting
from workers.runtimes.serve.tally import Tally

ADDRESS_ENV = "LIFTOFF_NODE_ADDRESS"
"""Address to listen on, the one under which the portal reaches this node; 127.0.0.1 when unset."""
FLUSH_S = 2
"""Seconds to send the last words of answers that are broken off."""
LOOK_S = 0.05


def serve(run: Run) -> None:
    """Serve until stopped. The output folder stays empty."""
    spec, token = run.launch_spec, run.order.serve_token
    if not token:
        raise invalid("serve_token: the order has none, and a served model answers only to its bearer.")
    began = time.monotonic()
    report = None if spec.skip_preflight else before_launch(run)
    checked = time.monotonic()
    name, why = choose(spec, run.model, run.device_kind)
    run.result("engine", {"engine": name, "why": why})
    run.say(f"Engine: {name}. {why}")
    load = loader(name)
    imported = time.monotonic()
    run.phase("loading model")
    meter = Meter(run.order.devices)
    read = read_ahead(run)
    engine = load(run)
    model_name = run.adapter.name if run.adapter is not None else run.model.name

    listener = listen(os.environ.get(ADDRESS_ENV) or "127.0.0.1")
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def announce() -> None:
        run.phase("serving")
        reporting.started(
            StartUp(
                libraries_s=round(began - run.began + imported - checked, 3),
                preflight_s=round(checked - began, 3) if report else None,
                read_s=round(read.seconds, 3) if read else None,
                read_bytes=read.bytes if read else 0,
                load_s=round(time.monotonic() - imported - (read.seconds if read else 0), 3),
                disk_bytes_per_s=_disk(report) if report else None,
            )
        )
        run.ready(url, model_name)

    tally = Tally(meter.answered)
    reporting = Reporting(run, engine, tally)
    server = Server(make_app(engine, spec, model_name, token, tally), announce)
    meter.begin()
    try:
        asyncio.run(_until_stopped(run, server, listener, engine, reporting, spec.drain_s))
    finally:
        engine.close()
        reporting.last()
        if (measured := meter.measured()) is not None:
            run.result(MEASURED, measured.model_dump(mode="json"))
    if engine.failure is not None:
        raise engine.failure


def _disk(report: Report) -> float | None:
    """Bytes a second that a preflight measured on the model's files; None where it measured none."""
    return next((line.value for line in report.lines if line.name == storage.READ and line.unit == "bytes/s"), None)


async def _until_stopped(
    run: Run, server: "Server", listener: socket.socket, engine: Engine, reporting: Reporting, drain_s: float
) -> None:
    """Answer until SIGTERM, and go on with what was begun for `drain_s`, while what is new is refused; or until the
    engine fails."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()

    def stop() -> None:
        loop.call_soon_threadsafe(stopped.set)

    run.on_stop.append(stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    reports = asyncio.create_task(reporting.go_on())
    try:
        while not (stopped.is_set() or engine.failure or serving.done()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), LOOK_S)
        engine.drain()
        until = loop.time() + drain_s
        while not engine.idle and not engine.failure and loop.time() < until:
            await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(engine.close)
        server.should_exit = True
        await serving
    finally:
        reports.cancel()


def listen(address: str) -> socket.socket:
    """A socket listening on a free port of `address`. Raises RunFailed when the node doesn't have that address.

    What it accepts sends at once: asyncio sees to that only for sockets that were made with their protocol's number,
    and else each token after the first chunk waits up to 40 ms for the reader's acknowledgement.
    """
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError:  # a name
        family = socket.AF_INET
    try:
        listener = socket.create_server((address, 0), family=family)
    except OSError as error:
        raise invalid(
            f"{ADDRESS_ENV}: cannot listen on {address!r} ({error}); name an address of this node."
        ) from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class Server(uvicorn.Server):
    """uvicorn that calls `announce` once it answers, and leaves signals to the run."""

    def __init__(self, app: Any, announce: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=FLUSH_S
        )
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
