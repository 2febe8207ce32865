"""What may go when there is too much of something: by age, then by size, oldest first, and never what is needed. Pure.

The portal keeps rows and results this way, a node its runs and its cache. Knows nothing of what a thing is, nor of
the clock.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

DAY_S = 86_400.0
YOUNG_S = 3600.0
"""What ended or was used later than this long ago stays whatever the limits: late events and viewers still come."""

Unit = Literal["GIB", "ROWS"]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Limit:
    """How much is kept; 0 sets no limit."""

    days: float = 0
    size: int = 0
    """Bytes or rows, of all things together."""
    unit: Unit = "GIB"

    def too_old(self) -> str:
        """Why a thing goes by age."""
        return f"older than {self.days:g} days"

    def too_much(self) -> str:
        """Why a thing goes by size."""
        return f"more than {self.size / 2**30:g} GiB in all" if self.unit == "GIB" else f"more than {self.size:,} rows"


@dataclass(frozen=True)
class Thing(Generic[Key]):
    """Something that takes room."""

    key: Key
    at: float
    """Unix seconds when it ended or was last used."""
    size: int
    """Bytes or rows."""
    held: str = ""
    """What needs it; empty when nothing does."""


class Doomed(NamedTuple, Generic[Key]):
    """A thing that may go, and why."""

    thing: Thing[Key]
    why: str


def select(things: Iterable[Thing[Key]], limit: Limit, now: float, young_s: float = YOUNG_S) -> list[Doomed[Key]]:
    """What goes, oldest first: everything too old, then as much as is over the size. What stays counts as well."""
    left = sorted(things, key=lambda thing: thing.at)
    free = [thing for thing in left if not thing.held and thing.at <= now - young_s]
    total = sum(thing.size for thing in left)
    gone: list[Doomed[Key]] = []
    for thing in free:
        if limit.days and thing.at < now - limit.days * DAY_S:
            why = limit.too_old()
        elif limit.size and total > limit.size:
            if not thing.size:
                continue
            why = limit.too_much()
        else:
            break
        gone.append(Doomed(thing, why))
        total -= thing.size
    return gone


def limit_from(environment: Mapping[str, str], what: str, *, days: float, size: float, unit: Unit) -> Limit:
    """LIFTOFF_KEEP_<what>_DAYS and LIFTOFF_KEEP_<what>_<unit>, or these defaults. Raises ValueError, one sentence."""
    chosen_days = _number(environment, f"LIFTOFF_KEEP_{what}_DAYS", days, 1e6)
    chosen_size = _number(environment, f"LIFTOFF_KEEP_{what}_{unit}", size, 1e6 if unit == "GIB" else 1e15)
    return Limit(chosen_days, int(chosen_size * (2**30 if unit == "GIB" else 1)), unit)


def _number(environment: Mapping[str, str], name: str, default: float, most: float) -> float:
    text = environment.get(name, "").strip()
    try:
        number = float(text) if text else default
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise ValueError(f"{name}: {text!r} is no limit; use a number from 0 (no limit) to {most:,.0f}.")
    return number
