"""The label of an axis, which the drawings of sweeps and load tests have in common. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """A label of one axis at a share of the drawing."""

    at: str
    text: str
