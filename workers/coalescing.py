"""A flood of events made fit to keep: as many as the rate allows pass as they are, of the rest the last of each kind.

Nothing goes without a trace: what was merged into a later event is counted. Pure: events and times in, events out.
Doesn't know where events come from nor where they go.
"""

from collections.abc import Callable, Iterator

from workers.contract.events import AnyEvent, Log, Metric, Phase, Progress, Result

EVENTS_PER_S = 50.0
BURST_EVENTS = 5_000
EVENT_SIZE = 1_000
"""Bytes; an event of twice the size counts as two, and so on."""

KINDS = 1_000
"""Held back at one time; a child that invents kinds without end loses the oldest, counted."""

NOTICE_S = 10.0

Key = tuple[str, ...]


class Coalescer:
    """Used by one thread. `offer` what comes, `due` now and then, `end` once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = float(BURST_EVENTS)
        self._at = clock()
        self._held: dict[Key, tuple[AnyEvent, float]] = {}
        self._merged = 0
        self._since = 0.0

    @property
    def holding(self) -> bool:
        """Whether `due` has something to give sooner or later."""
        return bool(self._held)

    def offer(self, event: AnyEvent, size: int) -> Iterator[AnyEvent]:
        """What may pass now. `size`: bytes of the event's line."""
        cost = max(1.0, size / EVENT_SIZE)
        self._refill()
        if not self._held and self._tokens >= cost:
            self._tokens -= cost
            yield event
            return
        key = _key(event)
        if key in self._held and not isinstance(event, Progress):  # progress says where a run is, not where it was
            self._count()
        self._held.pop(key, None)
        self._held[key] = event, cost
        if len(self._held) > KINDS:
            self._held.pop(next(iter(self._held)))
            self._count()
        yield from self.due()

    def due(self) -> Iterator[AnyEvent]:
        """What was held back and may pass by now, the oldest first."""
        self._refill()
        if self._merged and self._clock() - self._since >= NOTICE_S:
            yield from self._notice()
        while self._held:
            key, (event, cost) = next(iter(self._held.items()))
            if self._tokens < min(cost, BURST_EVENTS):
                return
            self._tokens -= cost
            del self._held[key]
            yield event

    def end(self) -> Iterator[AnyEvent]:
        """All that is left."""
        yield from (event for event, _ in self._held.values())
        self._held.clear()
        if self._merged:
            yield from self._notice()

    def _count(self) -> None:
        if not self._merged:
            self._since = self._clock()
        self._merged += 1

    def _notice(self) -> Iterator[AnyEvent]:
        text = f"… {self._merged} events were merged into later ones: more than {EVENTS_PER_S:g} a second"
        self._merged = 0
        yield Log(stream="supervisor", text=text)

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._at) * EVENTS_PER_S, BURST_EVENTS)
        self._at = now


def _key(event: AnyEvent) -> Key:
    """What a later event stands in for: the same names of a metric, the same name of a result, the same type."""
    if isinstance(event, Metric):
        return event.type, *sorted(event.values)
    if isinstance(event, Result | Phase):
        return event.type, event.name
    return (event.type,)
