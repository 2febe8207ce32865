"""What a preflight found on a node: one line a check, each ok, warn or fail, with what to do.

Does not know how anything is measured, nor which job asked.
"""

from typing import Literal

from pydantic import Field, FiniteFloat

from workers.contract.base import Contract

RESULT = "preflight"
"""Name of the Result event that carries a Report."""

State = Literal["ok", "warn", "fail"]
Unit = Literal["", "bytes", "bytes/s", "share"]


class Line(Contract):
    """One check. `warn` lets a job start, `fail` doesn't."""

    name: str = Field(max_length=60, description="What was checked, in words: 'disk read'.")
    state: State
    words: str = Field(max_length=2000, description="What was found, one or two sentences.")
    to_do: str = Field("", max_length=1000, description="What would make it ok; empty where it is.")
    value: FiniteFloat | None = Field(None, description="The figure that was judged, in `unit`; null without one.")
    unit: Unit = ""


class Report(Contract):
    """Every line of one preflight."""

    at: FiniteFloat = Field(ge=0, le=1e11, description="Unix seconds when it began.")
    took_s: FiniteFloat = Field(ge=0, description="Seconds.")
    lines: tuple[Line, ...] = Field(max_length=200)

    @property
    def state(self) -> State:
        """The worst of its lines."""
        states = {line.state for line in self.lines}
        return "fail" if "fail" in states else "warn" if "warn" in states else "ok"

    @property
    def failed(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.state == "fail")
