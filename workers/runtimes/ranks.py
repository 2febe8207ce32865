"""A run of several processes: one a device, under torchrun's elastic agent, which speaks for them in events.

On several nodes each has an agent, and the first one's processes come first. What the others say of the run is left
out: only how they failed, and that this node's part of a checkpoint is whole.

The processes write their events into one named pipe. Doesn't know what they do. Source of the agent's behaviour:
PyTorch's "Torch Distributed Elastic" reference.
"""

import os
import re
import signal
import sys
import threading
from typing import Any

import psutil

from workers.contract.events import Failed
from workers.contract.names import EVENTS_FD_ENV, EVENTS_PIPE_ENV, fence_of
from workers.contract.order import Order, Team
from workers.contract.reasons import Reason
from workers.runtimes.base import STOPPED_EXIT, Emitter, Run, RunFailed
from workers.runtimes.team import is_rank

PIPE = "ranks.fifo"
FAILED = b'{"type":"failed"'
MEET_S = 1800
"""Seconds that the nodes of a run wait for one another: one may have to fetch the model first."""
_OF_ANOTHER = re.compile(r"gloo/transport|by peer|Dist(?:Backend|Network|Store)Error")
"""What a process says when one that it talks to is gone."""
KILL_AFTER_S = 30
"""Seconds that the other processes have to end once one has failed."""


def wants_ranks(order: Order) -> bool:
    """Whether this process is to start others instead of doing the work itself."""
    return order.spec.kind == "finetune" and (len(order.devices) > 1 or order.team is not None) and not is_rank()


def run_ranks(run: Run) -> None:
    """Start them and wait for all. Raises RunFailed with what the first to fail said; ends as it was ended if that was
    by a signal."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    count, team = len(run.order.devices), run.order.team
    relay = _Relay(run)
    stopping = threading.Event()
    run.on_stop.append(lambda: _stop(stopping))
    if run.device_kind == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    config = LaunchConfig(
        **_meeting(run.order),
        nproc_per_node=count,
        max_restarts=0,  # the portal tries again, from a checkpoint
        monitor_interval=0.2,
        shutdown_timeout=KILL_AFTER_S,
        signals_to_handle="SIGQUIT",  # SIGTERM is ours: the processes save before they end
        logs_specs=DefaultLogsSpecs(log_dir=str(run.run_dir / "ranks")),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "workers.runtimes", str(run.run_dir))
    except DistError as error:
        raise RunFailed(Reason.PEER_LOST, _unmet(team, error)) from error
    except ChildFailedError as error:
        if stopping.is_set():
            sys.exit(STOPPED_EXIT)
        failures = error.failures.values()
        # The agent itself ends by SIGTERM the processes that go on after another failed.
        killed = next((one for one in failures if one.exitcode < 0 and one.exitcode != -signal.SIGTERM), None)
        if killed is not None and team and killed.exitcode == -signal.SIGABRT:
            detail = f"process {killed.local_rank} ended itself by SIGABRT, as NCCL does when another node goes away."
            raise RunFailed(Reason.PEER_LOST, detail) from None
        if killed is not None:
            run.say(f"Process {killed.local_rank} was ended by {signal.Signals(-killed.exitcode).name}.")
            _end_by(-killed.exitcode)
        if said := relay.failure():
            if team and said.reason is Reason.CRASHED and _OF_ANOTHER.search(said.detail):
                said = RunFailed(Reason.PEER_LOST, said.detail)
            raise said from None
        if team and all(one.exitcode == STOPPED_EXIT for one in failures):
            raise RunFailed(Reason.PEER_LOST, "its processes stopped with those of another node.") from None
        raise RunFailed(
            Reason.CRASHED, f"process {error.get_first_failure()[0]} of {count} ended without a word; see the log."
        ) from None
    finally:
        relay.close()


def _meeting(order: Order) -> dict[str, Any]:
    """Where the agents meet, as LaunchConfig has it."""
    team = order.team
    if team is None:
        return {
            "min_nodes": 1,
            "max_nodes": 1,
            "run_id": f"{order.job}-{order.attempt}",
            "rdzv_backend": "c10d",
            "rdzv_endpoint": "127.0.0.1:0",
            "local_addr": "127.0.0.1",
        }
    for name, value in team.settings.items():
        os.environ.setdefault(name, value)
    return {
        "min_nodes": team.nodes,
        "max_nodes": team.nodes,
        "run_id": f"{order.job}-{order.attempt}-{fence_of(order.token)}",
        "rdzv_backend": "static",  # c10d would have the nodes' places be those in which they come
        "rdzv_endpoint": team.endpoint,
        "rdzv_configs": {"rank": team.rank, "timeout": MEET_S},
    }


def _unmet(team: Team | None, error: Exception) -> str:
    where = team.endpoint if team else "127.0.0.1"
    return (
        f"the nodes could not meet at {where}: {str(error).splitlines()[0][:200]} "
        "Each of them must reach that address, which is the first one's LIFTOFF_NODE_ADDRESS."
    )


def _stop(stopping: threading.Event) -> None:
    """Pass SIGTERM on; each process saves and ends."""
    stopping.set()
    processes = psutil.Process().children()
    if not processes:
        sys.exit(STOPPED_EXIT)
    for process in processes:
        process.send_signal(signal.SIGTERM)


def _end_by(number: int) -> None:
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class _Relay:
    """Passes on the events that come through the pipe, but keeps the first Failed for the end."""

    def __init__(self, run: Run) -> None:
        path = run.run_dir / PIPE
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        # Open for both ends, it never ends, whoever else opens and closes it.
        self._pipe = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._emitter: Emitter = run.emitter
        self._failed: Failed | None = None
        os.environ[EVENTS_PIPE_ENV] = str(path)
        os.environ.pop(EVENTS_FD_ENV, None)
        self._thread = threading.Thread(target=self._pass_on, name="events of the ranks", daemon=True)
        self._thread.start()

    def failure(self) -> RunFailed | None:
        """What the first process to fail said."""
        self.close()
        return RunFailed(self._failed.reason, self._failed.detail) if self._failed else None

    def close(self) -> None:
        """Pass on what is in the pipe, and no more."""
        if self._thread.is_alive():
            os.write(self._pipe, b"\n")  # an empty line ends it
            self._thread.join()

    def _pass_on(self) -> None:
        with os.fdopen(os.dup(self._pipe), "rb") as lines:
            for line in iter(lines.readline, b"\n"):
                if not line.startswith(FAILED):
                    self._emitter.write(line)
                elif self._failed is None:
                    self._failed = Failed.model_validate_json(line)
