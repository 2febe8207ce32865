"""Carries out planned faults on a stack, and undoes them: what was done to whom and when is remembered.

Doesn't know when (schedule) nor what must hold afterwards (invariants).
"""

import contextlib
import errno
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.schedule import Kind, Planned
from tests.chaos.stack import CONTROLLERS, NODES, WEB, Stack
from workers.contract.names import NODE_STREAM, job_stream

Undo = Callable[[], None]


@dataclass
class Injected:
    """A fault that was carried out. Times are Unix seconds; `until` is when it was undone.

    `struck`: names of the run directories of the attempts it hit. `skipped`: why it wasn't carried out.
    """

    kind: Kind
    at: float
    target: str = ""
    until: float = float("inf")
    struck: frozenset[str] = frozenset()
    skipped: str = ""


@dataclass
class Faults:
    """The hand that does it."""

    stack: Stack
    injected: list[Injected] = field(default_factory=list)
    _down: set[str] = field(default_factory=set)
    """Parts that a fault holds down now; a second one leaves them alone."""

    def inject(self, planned: Planned) -> Undo | None:
        """Do it now. What undoes it, to be called `hold_s` later; None when there is nothing to undo."""
        fault = Injected(planned.kind, time.time())
        self.injected.append(fault)
        try:
            undo = _CARRIED_OUT[planned.kind](self, fault, planned.pick)
        except _Skip as skip:
            fault.skipped, fault.until = str(skip), fault.at
            return None
        if undo is None:
            fault.until = time.time()
            return None

        def undone() -> None:
            undo()
            fault.until = time.time()

        return undone

    def _take_down(self, name: str) -> None:
        if name in self._down:
            raise _Skip(f"{name} is down already")
        self._down.add(name)

    def kill_child(self, fault: Injected, pick: float) -> Undo | None:
        children = sorted(filter(_is_child, self.stack.processes_of_runs()), key=lambda process: process.pid)
        if not children:
            raise _Skip("no child runs")
        child = children[int(pick * len(children))]
        with contextlib.suppress(psutil.Error):
            run = Path(child.environ()["LIFTOFF_RUN"]).name
            fault.target, fault.struck = f"child of {run}", frozenset({run})
            child.kill()
        return None

    def kill_worker(self, fault: Injected, pick: float) -> Undo | None:
        node = self._strike_node(fault, pick)
        self.stack.parts[node].kill()
        return self._start_again(node)

    def stop_worker(self, fault: Injected, pick: float) -> Undo | None:
        node = self._strike_node(fault, pick)
        part = self.stack.parts[node]
        part.signal(signal.SIGTERM)

        def again() -> None:
            part.stop()
            self._start_again(node)()

        return again

    def pause_worker(self, fault: Injected, pick: float) -> Undo | None:
        return self._pause(self._strike_node(fault, pick))

    def kill_controller(self, fault: Injected, pick: float) -> Undo | None:
        fault.target = _chosen(CONTROLLERS, pick)
        self._take_down(fault.target)
        self.stack.parts[fault.target].kill()
        return self._start_again(fault.target)

    def pause_controller(self, fault: Injected, pick: float) -> Undo | None:
        fault.target = _chosen(CONTROLLERS, pick)
        self._take_down(fault.target)
        return self._pause(fault.target)

    def kill_web(self, fault: Injected, _pick: float) -> Undo | None:
        fault.target = WEB
        self._take_down(WEB)
        self.stack.parts[WEB].kill()
        return self._start_again(WEB)

    def restart_redis(self, fault: Injected, _pick: float) -> Undo | None:
        return self._redis_down(fault, keep=True)

    def empty_redis(self, fault: Injected, _pick: float) -> Undo | None:
        return self._redis_down(fault, keep=False)

    def flush_redis(self, fault: Injected, _pick: float) -> Undo | None:
        fault.target = "redis"
        if "redis" in self._down:
            raise _Skip("redis is down already")
        self.stack.redis.client().flushall()
        return None

    def restart_postgres(self, fault: Injected, _pick: float) -> Undo | None:
        return self._postgres_down(fault, "fast")

    def crash_postgres(self, fault: Injected, _pick: float) -> Undo | None:
        return self._postgres_down(fault, "immediate")

    def fill_disk(self, fault: Injected, pick: float) -> Undo | None:
        if why := self.stack.why_not.get("disk"):
            raise _Skip(why)
        fault.target = _chosen(NODES, pick)
        fault.struck = self._runs_on(fault.target)
        self._take_down(f"disk of {fault.target}")
        filler = self.stack.runs_dir(fault.target).parent / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 65536)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

        def free() -> None:
            filler.unlink()
            self._down.discard(f"disk of {fault.target}")

        return free

    def repeat_orders(self, fault: Injected, pick: float) -> Undo | None:
        """Every order of the round's last attempts comes once more, the newest first."""
        from django.db import connection

        from portal.jobs import dispatch, orders
        from portal.jobs.models import Attempt
        from workers.contract.names import START_TASK

        if self._down & {"postgres", "redis"}:
            raise _Skip("postgres or redis is down")
        connection.close()  # the one of before may have been cut
        attempts = list(Attempt.objects.select_related("job", "node").order_by("-pk")[: 4 + int(pick * 8)])
        fault.target = f"{len(attempts)} orders"
        for attempt in attempts:
            order = orders.rebuild(attempt)
            dispatch._send(START_TASK, [order.model_dump(mode="json")], order.node, 30)
        return None

    def repeat_events(self, fault: Injected, pick: float) -> Undo | None:
        """Entries of jobs' streams and of the nodes' come once more, in another order."""
        from django.db import connection

        from portal.jobs.models import Job

        if self._down & {"postgres", "redis"}:
            raise _Skip("postgres or redis is down")
        draw = random.Random(pick)
        connection.close()
        client = self.stack.redis.client()
        repeated = 0
        jobs = Job.objects.filter(attempt_number__gt=0).order_by("-pk").values_list("pk", flat=True)[:8]
        for stream in [*map(job_stream, jobs), NODE_STREAM]:
            entries: list[Any] = client.xrange(stream)[-40:]  # type: ignore[index]
            again = draw.sample(entries, min(len(entries), 12))
            for _, values in again:
                client.xadd(stream, values)
            repeated += len(again)
        fault.target = f"{repeated} entries"
        return None

    def _strike_node(self, fault: Injected, pick: float) -> str:
        fault.target = _chosen(NODES, pick)
        self._take_down(fault.target)
        fault.struck = self._runs_on(fault.target)
        return fault.target

    def _runs_on(self, node: str) -> frozenset[str]:
        runs = self.stack.runs_dir(node)
        found = set()
        for process in self.stack.processes_of_runs():
            with contextlib.suppress(psutil.Error):
                run = Path(process.environ()["LIFTOFF_RUN"])
                if run.parent == runs:
                    found.add(run.name)
        return frozenset(found)

    def _start_again(self, name: str) -> Undo:
        def start() -> None:
            self.stack.parts[name].start()
            self._down.discard(name)

        return start

    def _pause(self, name: str) -> Undo:
        self.stack.parts[name].signal(signal.SIGSTOP)

        def go_on() -> None:
            self.stack.parts[name].signal(signal.SIGCONT)
            self._down.discard(name)

        return go_on

    def _redis_down(self, fault: Injected, keep: bool) -> Undo:
        fault.target = "redis"
        self._take_down("redis")
        self.stack.redis.kill()

        def start() -> None:
            if not keep:
                self.stack.redis.forget()
            self.stack.redis.start()
            self._down.discard("redis")

        return start

    def _postgres_down(self, fault: Injected, mode: str) -> Undo:
        if self.stack.postgres is None:
            raise _Skip(self.stack.why_not["postgres"])
        fault.target = "postgres"
        self._take_down("postgres")
        postgres = self.stack.postgres
        postgres.stop(mode)

        def start() -> None:
            postgres.start()
            self._down.discard("postgres")

        return start


class _Skip(Exception):
    """The fault can't be made now."""


_CARRIED_OUT: dict[Kind, Callable[[Faults, Injected, float], Undo | None]] = {
    kind: getattr(Faults, kind.value) for kind in Kind
}


def _chosen(names: tuple[str, ...], pick: float) -> str:
    return names[int(pick * len(names))]


def _is_child(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        line = process.cmdline()
        return "--pid-fd" not in line and any("chaos_child" in part or part == "workers.runtimes" for part in line)
    return False
