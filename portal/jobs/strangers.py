"""Memory of a device that no live attempt explains: left over by a run that ended, or somebody else's process.

Nodes say who holds what of their devices; what is new or gone since is told on the node's page, once, and what a run
has left its node is told to kill. Reads no heartbeats from anywhere (telemetry); keeps no attempt from a device.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from portal.fleet import services as fleet
from portal.fleet.models import Accelerator
from portal.jobs import dispatch
from portal.jobs.leases import Held
from portal.jobs.models import Allocation
from workers.contract.events import DeviceProcess, DeviceUse, Heartbeat

log = logging.getLogger(__name__)

SURE_S = 15.0
"""A process that is seen for less may be one that is just ending."""
LEAST_BYTES = 2**30
"""Memory that no process is named for is a driver's own below this."""

Place = tuple[str, str, int]
"""Node, kind of device, index."""
Key = tuple[str, str, int, int]
"""The same, and the process; 0 for memory of no process."""


class Stranger(NamedTuple):
    """Who holds memory of a device.

    `pid` 0: nobody that the driver names. `left_by`: the run that left it, in words.
    """

    pid: int
    name: str
    bytes: int | None
    left_by: str = ""

    def __str__(self) -> str:
        size = "memory" if self.bytes is None else _size(self.bytes)
        if not self.pid:
            return f"{size} held by no process that the driver names"
        return f"{size} held by pid {self.pid}" + (f" ({self.name})" if self.name else "")


class Strangers:
    """Remembers since when each was seen. One a leading controller; what it has told is in the database."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._since: dict[Key, float] = {}

    def forget(self) -> None:
        """Begin anew: heartbeats were missed."""
        self._since.clear()

    def heard(self, beats: Mapping[str, Heartbeat], live: Iterable[Held]) -> None:
        """Compare what those nodes say that looked with what they hold. `live`: those attempts."""
        looked = {name: beat for name, beat in beats.items() if beat.devices is not None}
        if not looked:
            return
        at = self._clock()
        rows = Accelerator.objects.filter(node__name__in=list(looked)).select_related("node")
        known = {(row.node.name, row.kind, row.index): row for row in rows}
        holding = set(
            Allocation.objects.filter(released_at=None, accelerator__in=[row.pk for row in known.values()]).values_list(
                "accelerator_id", flat=True
            )
        )
        held = list(live)
        since: dict[Key, float] = {}
        for name, beat in looked.items():
            mine = [one for one in held if one.node == name]
            for use in beat.devices or ():
                place = (name, use.kind, use.index)
                if (device := known.get(place)) is not None:
                    found = list(_strangers(use, beat, mine, device.pk in holding))
                    for stranger, _ in found:
                        since[*place, stranger.pid] = self._since.get((*place, stranger.pid), at)
                    told = {stranger.pid for stranger in told_of(device)}
                    sure = [
                        (stranger, process)
                        for stranger, process in found
                        if stranger.pid in told or at - since[*place, stranger.pid] >= SURE_S
                    ]
                    _compare(device, [stranger for stranger, _ in sure])
                    _end([process for _, process in sure if process is not None], name)
        self._since = {key: moment for key, moment in self._since.items() if key[0] not in looked} | since


def _strangers(
    use: DeviceUse, beat: Heartbeat, mine: list[Held], is_held: bool
) -> Iterator[tuple[Stranger, DeviceProcess | None]]:
    """Each with its process. One that the node can't look into may be of the attempt that has the device."""
    for process in use.processes:
        run = process.run
        if run is not None:
            ends = any((run.job, run.attempt, run.token) == (one.job, one.attempt, one.token) for one in beat.running)
            if ends or any(one.is_named(run) for one in mine):
                continue
            left_by = f"job #{run.job}, attempt {run.attempt}"
            yield Stranger(process.pid, process.name, process.bytes, left_by), process
        elif process.name or not is_held:
            yield Stranger(process.pid, process.name, process.bytes), process
    sizes = [process.bytes for process in use.processes]
    if use.memory_bytes is not None and not is_held and None not in sizes:
        unnamed = use.memory_bytes - sum(size or 0 for size in sizes)
        if unnamed >= LEAST_BYTES:
            yield Stranger(0, "", unnamed), None


def _compare(device: Accelerator, found: list[Stranger]) -> None:
    """Tell who came and who is gone since the last time."""
    before = {stranger.pid: stranger for stranger in told_of(device)}
    now = {stranger.pid: stranger for stranger in found}
    came = [stranger for pid, stranger in now.items() if pid not in before]
    gone = [stranger for pid, stranger in before.items() if pid not in now]
    if not came and not gone:
        return
    fleet.set_strangers(device, [stranger._asdict() for stranger in found])
    where = f"accelerator {device.kind}:{device.index}"
    for stranger in came:
        why = f"left by {stranger.left_by}; told the node to kill it" if stranger.left_by else ""
        fleet.note(device.node, f"{where}: {stranger}, {why or 'which no live attempt explains'}.")
        log.warning("node %s, %s: %s", device.node.name, where, stranger)
    for stranger in gone:
        fleet.note(device.node, f"{where}: no longer {stranger}.")


def _end(processes: list[DeviceProcess], node: str) -> None:
    """Have the node kill what runs that ended have left."""
    for job, attempt, token in {(p.run.job, p.run.attempt, p.run.token) for p in processes if p.run is not None}:
        dispatch.revoke(job, attempt, token, node)


def told_of(device: Accelerator) -> list[Stranger]:
    """Who is known to hold memory of the device."""
    return [Stranger(**entry) for entry in device.strangers]


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.0f} MiB"
