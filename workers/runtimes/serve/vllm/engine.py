"""Starts vLLM's server for a launch, waits until it answers, and relays to it.

Knows nothing of HTTP's other side, nor of how the command is made.
"""

import json
import os
import secrets
import socket
import subprocess
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import torch

from workers.contract.reasons import Reason
from workers.runtimes.base import Run, RunFailed, local_path
from workers.runtimes.models import HUB_SCHEME, context_limit, load_config, load_tokenizer
from workers.runtimes.serve.relay import RelayEngine
from workers.runtimes.serve.vllm.arguments import Place, arguments

READY_WITHIN_S = 1800
LOOK_S = 0.5
STOP_WITHIN_S = 10


def load(run: Run) -> RelayEngine:
    """Raises RunFailed where vLLM ends before it answers, or doesn't in half an hour."""
    spec, order = run.launch_spec, run.order
    limit = context_limit(load_config(run.model))
    place = _place(run, min(spec.context_length, limit or spec.context_length))
    key = secrets.token_urlsafe(24)
    command = arguments(order, spec, place)
    run.say(" ".join(command))
    process = subprocess.Popen(command, env={**os.environ, "VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1"})

    def died() -> Exception | None:
        status = process.poll()
        return None if status is None else RunFailed(Reason.CRASHED, f"vLLM ended with status {status}; see the log.")

    def stop() -> None:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    url = f"http://127.0.0.1:{place.port}"
    try:
        _wait(f"{url}/health", process)
    except BaseException:
        stop()
        raise
    name = order.adapter.name if order.adapter is not None else run.model.name
    return RelayEngine(
        url,
        name,
        load_tokenizer(run.model),
        context_length=place.context_length,
        most=spec.max_concurrency,
        queue=spec.queue,
        died=died,
        stop=stop,
        api_key=key,
    )


def _place(run: Run, context_length: int) -> Place:
    model, adapter, rank = run.model, None, 16
    hub = model.format == "hub"
    source = model.uri.removeprefix(HUB_SCHEME) if hub else str(local_path(model.uri, "model.uri"))
    if run.adapter is not None:
        folder = local_path(run.adapter.uri, "adapter.uri")
        adapter, rank = str(folder), _rank(folder)
    reserved = run.order.devices[0].reserved_bytes if run.order.devices else None
    share = None
    if reserved is not None and run.device_kind == "cuda":
        share = reserved / torch.cuda.get_device_properties(0).total_memory
    return Place(
        source, _free_port(), context_length, (model.revision or "main") if hub else None, share, adapter, rank
    )


def _rank(folder: Path) -> int:
    return int(json.loads((folder / "adapter_config.json").read_text()).get("r", 16))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until:
        if (status := process.poll()) is not None:
            raise RunFailed(Reason.CRASHED, f"vLLM ended with status {status} before it answered; see the log.")
        try:
            with urlopen(url, timeout=5) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (URLError, OSError):
            pass
        time.sleep(LOOK_S)
    raise RunFailed(Reason.CRASHED, f"vLLM did not answer within {READY_WITHIN_S // 60} minutes; see the log.")
