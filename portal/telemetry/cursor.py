"""A place in a job's events: (attempt, seq), written '2.140'. Knows nothing of streams or tables."""

from typing import NamedTuple

from workers.contract.errors import Refused


class Cursor(NamedTuple):
    """Events after it are newer; Cursor(0, 0) is before the first."""

    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}.{self.seq}"


START = Cursor(0, 0)


def parse(text: str | None) -> Cursor:
    """The cursor that `text` writes; START for none. Raises Refused at `since`."""
    if not text:
        return START
    attempt, dot, seq = text.partition(".")
    if not (dot and attempt.isdecimal() and seq.isdecimal() and len(text) <= 20):
        raise Refused.at("since", text, f"since: {text!r} is no place in the events; write attempt.seq, e.g. 1.250.")
    return Cursor(int(attempt), int(seq))
