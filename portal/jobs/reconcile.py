"""Compares what nodes say they run with what the database says they hold, and sets right what differs.

A run that nobody holds is ended on its node. An attempt that its node doesn't name is asked for its events, which may
have been lost on their way, and ended when none come. Who holds a device that no attempt explains is found too
(strangers). Each correction is told on the job's timeline and the node's page. Does not read heartbeats from anywhere
(telemetry), nor expire leases.
"""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime

from django.utils import timezone

from portal.fleet.models import Node
from portal.fleet.services import note
from portal.jobs import dispatch, leases
from portal.jobs.ending import finish
from portal.jobs.leases import Held
from portal.jobs.lifecycle import Status
from portal.jobs.models import Attempt
from portal.jobs.states import remark
from portal.jobs.strangers import Strangers
from workers.contract.events import Heartbeat, RunningAttempt
from workers.contract.reasons import Reason

log = logging.getLogger(__name__)

GRACE_S = 5.0
"""A difference this young is the time that a word takes on its way."""
REPEAT_S = 3.0
"""Between two commands for the same difference."""
RESENDS = 3
"""An attempt that its node doesn't name is asked for so often before it is given up."""
LAG_S = 10.0
"""A node has spooled events that none of came for this long: they were lost."""
ENDED_HERE = frozenset({Reason.NODE_LOST, Reason.NEVER_STARTED})
"""Ends that the portal decides: the node hasn't heard of them, so there is nothing to wait for."""

Key = tuple[int, int, str]
"""(job, attempt, token)."""
Place = tuple[int, int | None]
"""Held.key."""


@dataclass
class Difference:
    """Since when something differs (monotonic seconds), how often it was acted upon and when last."""

    since: float
    last_seq: int = 0
    acts: int = 0
    acted_at: float = float("-inf")

    def act(self, now: float) -> bool:
        """Whether to act now; if so it counts as done."""
        if now - self.acted_at < REPEAT_S:
            return False
        self.acts, self.acted_at = self.acts + 1, now
        return True


@dataclass
class Differences:
    """What of one node differed at its last heartbeat."""

    missing: dict[Place, Difference] = field(default_factory=dict)
    """Held here, not named by the node."""
    orphans: dict[Key, Difference] = field(default_factory=dict)
    """Named by the node, not held here."""
    lagging: dict[Place, Difference] = field(default_factory=dict)
    """Named with more events than are stored."""


class Reconciler:
    """Remembers what differs between heartbeats. One a leading controller."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._nodes: dict[str, Differences] = {}
        self._strangers = Strangers(clock)

    def forget(self) -> None:
        """Begin anew: heartbeats were missed."""
        self._nodes.clear()
        self._strangers.forget()

    def heard(self, beats: dict[str, Heartbeat], behind: Collection[int] = (), now: datetime | None = None) -> None:
        """Renew the leases that the heartbeats name and set right what differs.

        `beats`: node → its newest heartbeat. `behind`: jobs of which stored events are not all that came.
        """
        live = leases.held(beats)
        leases.renew(beats, live, now or timezone.now())
        self._strangers.heard(beats, live)
        at = self._clock()
        for name, beat in beats.items():
            before = self._nodes.get(name, Differences())
            after = self._nodes[name] = Differences()
            mine = [one for one in live if one.node == name]
            for one in mine:
                named = next((running for running in beat.running if one.is_named(running)), None)
                if one.job in behind:
                    continue
                if named is None:
                    self._missing(one, before.missing, after.missing, at)
                elif named.last_seq > one.last_seq and not one.gap:
                    self._lagging(one, before.lagging, after.lagging, at)
            strays = [running for running in beat.running if not any(one.is_named(running) for one in mine)]
            if strays:
                self._orphans(name, strays, before.orphans, after.orphans, at)

    def _missing(self, one: Held, before: dict[Place, Difference], after: dict[Place, Difference], at: float) -> None:
        if one.status == Status.DISPATCHED and not one.leased:
            return  # on its way; the sweep sends it again
        seen = before.get(one.key)
        if seen is None or seen.last_seq != one.last_seq:
            seen = Difference(at, one.last_seq)  # events still come: its end is among them
        after[one.key] = seen
        if at - seen.since < GRACE_S or at - seen.acted_at < REPEAT_S:
            return
        if seen.acts < RESENDS:
            seen.act(at)
            _ask_again(one, "doesn't name it among its runs", seen.acts)
            return
        detail = f"Node {one.node} reports, but doesn't run it, and sends no end of it."
        if finish(one.job, one.number, Reason.NODE_LOST, detail):
            _tell(one.node, f"Job #{one.job}, attempt {one.number} was given up: the node doesn't run it.")

    def _lagging(self, one: Held, before: dict[Place, Difference], after: dict[Place, Difference], at: float) -> None:
        seen = before.get(one.key)
        if seen is None or seen.last_seq != one.last_seq:
            seen = Difference(at, one.last_seq)
        after[one.key] = seen
        if at - seen.since >= LAG_S and at - seen.acted_at >= LAG_S:
            seen.act(at)
            _ask_again(one, "has more events of it than came", seen.acts)

    def _orphans(
        self,
        node: str,
        strays: list[RunningAttempt],
        before: dict[Key, Difference],
        after: dict[Key, Difference],
        at: float,
    ) -> None:
        known = Attempt.objects.filter(job_id__in=[running.job for running in strays])
        ended = {(job, number): reason for job, number, reason in known.values_list("job_id", "number", "reason")}
        for running in strays:
            key = (running.job, running.attempt, running.token)
            seen = after[key] = before.get(key, Difference(at))
            told = ended.get(key[:2], "") not in ENDED_HERE
            if (told and at - seen.since < GRACE_S) or not seen.act(at):
                continue
            dispatch.revoke(*key, node)
            if seen.acts == 1:
                log.warning("node %s runs job %s attempt %s, which it doesn't hold; told it to end it", node, *key[:2])
                _tell(
                    node, f"Told to end job #{running.job}, attempt {running.attempt}, which it doesn't hold any more."
                )
                if key[:2] in ended:
                    remark(running.job, f"Told node {node} to end attempt {running.attempt}, which it doesn't hold.")


def _ask_again(one: Held, why: str, times: int) -> None:
    """Have the node send the attempt's events after the last stored one again; the first time, say so."""
    dispatch.resend(one.job, one.number, one.token, one.last_seq, one.node)
    if times > 1:
        return
    text = f"Asked node {one.node}, which {why}, for its events after no. {one.last_seq}."
    log.info("job %s attempt %s: %s", one.job, one.number, text)
    remark(one.job, text)
    _tell(one.node, f"Asked for the events of job #{one.job}, attempt {one.number} after no. {one.last_seq} again.")


def _tell(node: str, text: str) -> None:
    if (found := Node.objects.filter(name=node).first()) is not None:
        note(found, text)
