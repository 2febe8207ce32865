"""Check the node, load the model, listen, say so, and answer until SIGTERM; then let what is being said end, shortly.

Knows nothing of who ordered it.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from workers.contract.measured import MEASURED
from workers.runtimes.base import Run, invalid
from workers.runtimes.measuring import Meter
from workers.runtimes.models import add_adapter, choose_dtype, context_limit, load_model
from workers.runtimes.preflight.runtime import before_launch
from workers.runtimes.serve.api import make_app
from workers.runtimes.serve.engine import Engine

ADDRESS_ENV = "LIFTOFF_NODE_ADDRESS"
"""Address to listen on, the one under which the portal reaches this node; 127.0.0.1 when unset."""

DRAIN_S = 3
"""Seconds an answer under way may still take after SIGTERM."""


def serve(run: Run) -> None:
    """Serve until stopped. The output folder stays empty."""
    spec, token = run.launch_spec, run.order.serve_token
    if not token:
        raise invalid("serve_token: the order has none, and a served model answers only to its bearer.")
    if not spec.skip_preflight:
        before_launch(run)
    run.phase("loading model")
    dtype = choose_dtype(spec.precision, run.device_kind)
    meter = Meter(run.order.devices)
    model, tokenizer = load_model(run.model, dtype, run.device_kind, spec.quantization)
    name = run.model.name
    if run.adapter is not None:
        name = run.adapter.name
        model = add_adapter(model, run.adapter)
    limit = min(spec.context_length, context_limit(model.config) or spec.context_length)
    engine = Engine(model, tokenizer, limit)
    run.metric({"model_bytes": float(model.get_memory_footprint())})

    listener = listen(os.environ.get(ADDRESS_ENV) or "127.0.0.1")
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def announce() -> None:
        run.phase("serving")
        run.ready(url, name)

    def report(values: dict[str, float]) -> None:
        run.metric(values)
        rate = values.get("tokens_per_s")
        meter.answered(engine.longest, 1 / rate if rate else None)

    app = make_app(engine, spec, name, token, report)
    server = Server(app, announce)
    run.on_stop.append(server.stop)
    meter.begin()
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        engine.close()
        if (measured := meter.measured()) is not None:
            run.result(MEASURED, measured.model_dump(mode="json"))


def listen(address: str) -> socket.socket:
    """A socket listening on a free port of `address`. Raises RunFailed when the node doesn't have that address."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError:  # a name
        family = socket.AF_INET
    try:
        return socket.create_server((address, 0), family=family)
    except OSError as error:
        raise invalid(
            f"{ADDRESS_ENV}: cannot listen on {address!r} ({error}); name an address of this node."
        ) from error


class Server(uvicorn.Server):
    """uvicorn that calls `announce` once it answers, and leaves signals to the run."""

    def __init__(self, app: Any, announce: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=DRAIN_S
        )
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Take no new requests and end once those under way are answered, or after DRAIN_S."""
        self.should_exit = True
