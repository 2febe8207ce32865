"""One round: twelve jobs, a schedule of faults, and a bounded wait until everything has ended.

Doesn't judge what came of it (invariants).
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import httpx

from tests.chaos import schedule
from tests.chaos.faults import Faults, Injected
from tests.chaos.stack import Stack
from tests.chaos.work import Work, jobs

SETTLE_S = 90.0
"""After the last fault everything must have ended within this."""

Value = TypeVar("Value")

_REQUEST_AGAIN_S = 0.3


@dataclass
class Round:
    """What was done and what became of it. Times are Unix seconds."""

    seed: int
    began: float
    work: list[Work]
    ids: dict[str, int] = field(default_factory=dict)
    """Work key → job number."""
    injected: list[Injected] = field(default_factory=list)
    ended: float = 0
    stuck: list[str] = field(default_factory=list)
    """Jobs that hadn't ended when the time was up, in words."""


class Agenda:
    """Actions at their times, one after the other. An action may add more."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._order = itertools.count()
        self._entries: list[tuple[float, int, Callable[[], None]]] = []

    def add(self, at_s: float, action: Callable[[], None]) -> None:
        """`at_s` counts from the beginning of the agenda."""
        heapq.heappush(self._entries, (at_s, next(self._order), action))

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._began

    def run(self) -> None:
        while self._entries:
            at_s, _, action = heapq.heappop(self._entries)
            time.sleep(max(at_s - self.now_s, 0))
            action()


def play(stack: Stack, seed: int, faults: int, real: bool = False, gap_s: float = schedule.GAP_S) -> Round:
    """Play the round with this seed to its end; at the latest SETTLE_S after its last fault."""
    played = Round(seed, time.time(), jobs(seed, real, schedule.stretch(faults, gap_s)))
    clerk = threading.Thread(target=_attend, args=(stack, played), name="clerk", daemon=True)
    clerk.start()
    hand = Faults(stack, played.injected)
    agenda = Agenda()

    def strike(planned: schedule.Planned) -> Callable[[], None]:
        def action() -> None:
            undo = hand.inject(planned)
            if undo:
                agenda.add(agenda.now_s + planned.hold_s, undo)

        return action

    for planned in schedule.plan(seed, faults, gap_s):
        agenda.add(planned.at_s, strike(planned))
    agenda.run()
    stack.everything_up()
    settle(played, clerk)
    played.ended = time.time()
    return played


def settle(played: Round, clerk: threading.Thread | None = None) -> None:
    """Wait until every job has ended, or the time is up and `stuck` says which haven't."""
    from portal.jobs.lifecycle import FINAL
    from portal.jobs.models import Job

    deadline = time.monotonic() + SETTLE_S
    live: list[str] = []
    while time.monotonic() < deadline and not played.stuck:
        if not (clerk and clerk.is_alive()) and len(played.ids) == len(played.work):
            rows = quietly(lambda: list(Job.objects.filter(pk__in=played.ids.values()).exclude(status__in=FINAL)))
            if rows == []:
                return
            live = [f"#{job.pk} {job.name}: {job.status}. {job.waiting_for}" for job in rows or []]
        time.sleep(0.2)
    missing = [work.key for work in played.work if work.key not in played.ids]
    played.stuck += live + [f"{key} was never accepted" for key in missing]


def quietly(read: Callable[[], Value]) -> Value | None:
    """What the database says; None while it doesn't answer."""
    from django.db import Error, close_old_connections, connection

    try:
        close_old_connections()
        return read()
    except Error:
        connection.close()
        return None


def _attend(stack: Stack, played: Round) -> None:
    """What the users do: submit and stop jobs, over REST, again and again until it is accepted."""
    agenda = Agenda()
    for work in played.work:
        agenda.add(work.at_s, lambda work=work: _submit(stack, played, work))
        if work.cancel_at_s is not None:
            agenda.add(work.cancel_at_s, lambda work=work: _cancel(stack, played.ids[work.key]))
    try:
        agenda.run()
    except (AssertionError, TimeoutError) as error:
        played.stuck.append(f"a request failed for good: {error}")


def _submit(stack: Stack, played: Round, work: Work) -> None:
    key = f"{played.seed}-{played.began:.0f}-{work.key}"
    answer = _insist(lambda: stack.client.post("/api/v1/jobs", json=work.spec, headers={"Idempotency-Key": key}))
    played.ids[work.key] = int(answer.json()["id"])


def _cancel(stack: Stack, job: int) -> None:
    _insist(lambda: stack.client.post(f"/api/v1/jobs/{job}/cancel"))


def _insist(ask: Callable[[], httpx.Response]) -> httpx.Response:
    deadline = time.monotonic() + SETTLE_S
    while True:
        try:
            answer = ask()
            if answer.status_code < 400:
                return answer
            if answer.status_code < 500:
                raise AssertionError(f"refused: {answer.text}")
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("the portal accepted nothing for too long")
        time.sleep(_REQUEST_AGAIN_S)
