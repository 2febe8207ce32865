"""A plan's bytes and seconds as parts of a bar, in percent of its width, so that it fits any screen.

Pure: knows nothing of jobs, forms or templates.
"""

from dataclasses import dataclass

from portal.jobs.plan_text import NAMES
from portal.pages.templatetags.liftoff import gib
from portal.planner.answer import Memory, Speed

SHARES = {
    "compute": "Compute",
    "memory": "Memory traffic",
    "communication": "Communication",
    "bubble": "Pipeline bubble",
    "offload": "Offload",
}


@dataclass(frozen=True)
class Part:
    """One part of a bar. `size` in bytes or seconds; `words` is its arithmetic; `low` and `high` are bytes."""

    name: str
    title: str
    size: float
    width: str
    words: str
    low: int = 0
    high: int = 0


@dataclass(frozen=True)
class Bar:
    """The memory of the fullest device. Places are from the left end, which is no byte at all."""

    parts: list[Part]
    usable_at: str
    capacity_at: str
    low_at: str
    expected_at: str
    band: str
    """From the low end to the high end."""
    kept: float
    """Share of the device's memory that a rule keeps free."""
    beyond: bool
    """Whether the bar goes on after the device's memory."""
    label: str
    """All of it in words."""


def memory_bar(memory: Memory) -> Bar:
    """The bar of `memory`: as wide as the device's memory, or as the high end where that is more."""
    end = max(memory.capacity, memory.high, memory.expected, 1)
    parts = [
        Part(line.name, _titled(NAMES[line.name]), line.expected, _share(line.expected, end), line.words, line.low,
             line.high)
        for line in memory.lines
    ]  # fmt: skip
    spoken = ", ".join(f"{NAMES[line.name]} {gib(line.expected)}" for line in memory.lines if line.expected)
    return Bar(
        parts=parts,
        usable_at=_share(memory.usable, end),
        capacity_at=_share(memory.capacity, end),
        low_at=_share(memory.low, end),
        expected_at=_share(memory.expected, end),
        band=_share(memory.high - memory.low, end),
        kept=1 - memory.usable / max(memory.capacity, 1),
        beyond=end > memory.capacity,
        label=f"{gib(memory.expected)} of {gib(memory.capacity)}: {spoken}.",
    )


def time_bar(speed: Speed) -> list[Part]:
    """The parts of a step's time; empty where it takes none."""
    total = sum(share.seconds for share in speed.shares)
    if total <= 0:
        return []
    return [
        Part(share.name, SHARES[share.name], share.seconds, _share(share.seconds, total), share.words)
        for share in speed.shares
        if share.seconds > 0
    ]


def _titled(name: str) -> str:
    return name[:1].upper() + name[1:]


def _share(size: float, end: float) -> str:
    return f"{100 * size / end:.2f}%"
