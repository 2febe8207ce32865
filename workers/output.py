"""What a child prints, made fit to show: lines out of bytes, secrets out of lines, floods held back.

Pure: bytes and times in, text out. Doesn't know where the text goes.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator

LINE_CHARACTERS = 4_000
"""Longer lines are cut."""

BAR_INTERVAL_S = 2.0
"""A progress bar that redraws itself with carriage returns is shown this often."""

LINES_PER_S = 200.0
BURST_LINES = 1_000
LINE_SIZE = 400
"""Characters; a line of twice the length counts as two, and so on."""

LOG_BYTES = 1024**3
"""A run's log is cut off after this; its last lines are shown all the same."""

TAIL_LINES = 20
"""Of lines held back, the last ones before the end are shown all the same: they hold the cause."""

_HIDDEN = "[redacted]"

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(bearer|basic)(\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1\2{_HIDDEN}"),
    (re.compile(r"(?<=://)([^\s:/@]*):[^\s/@]+@"), rf"\1:{_HIDDEN}@"),
    (re.compile(r"\b(?:hf_[A-Za-z0-9]{10,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[\w-]{20,})"), _HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), _HIDDEN),
    (
        re.compile(
            r"((?:passw(?:or)?d|secret(?:[_-]?(?:access[_-]?)?key)?|api[_-]?key|authorization|"
            r"(?:access|auth|api|hf|refresh|session|serve)[_-]?token)"
            r"[\"']?\s*[=:]\s*[\"']?)(?!\[redacted\]|bearer\b|basic\b)[^\s\"',;&]+",
            re.IGNORECASE,
        ),
        rf"\1{_HIDDEN}",
    ),
    (re.compile(r"(_TOKEN=)(?!\[redacted\])\S+"), rf"\1{_HIDDEN}"),
)


class Redactor:
    """Takes secrets, control characters and over-length out of text. `known`: values that must never be shown."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = tuple(value for value in known if len(value) >= 8)

    def __call__(self, text: str) -> str:
        text = _CONTROLS.sub("", _ESCAPES.sub("", text[: 2 * LINE_CHARACTERS]))
        for value in self._known:
            text = text.replace(value, _HIDDEN)
        for pattern, replacement in _SECRETS:
            text = pattern.sub(replacement, text)
        return text if len(text) <= LINE_CHARACTERS else text[: LINE_CHARACTERS - 1] + "…"


class LineSplitter:
    """Lines out of a byte stream. Of a bar drawn over and over with \\r, one state every two seconds and the last."""

    _HELD_BYTES = 4 * LINE_CHARACTERS + 64 * 1024

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rest = b""
        self._bar = ""
        self._bar_at = float("-inf")

    def feed(self, data: bytes) -> Iterator[str]:
        """Whole lines, not empty, without their ends."""
        pieces = re.split(rb"(\r\n|\n|\r(?!\Z))", self._rest + data)
        self._rest = pieces.pop()
        if len(self._rest) > self._HELD_BYTES:  # a line without an end: show its beginning, forget the rest
            self._rest = self._rest[: self._HELD_BYTES]
        for piece, end in zip(pieces[::2], pieces[1::2], strict=True):
            text = piece.decode(errors="replace").rstrip()
            if end == b"\r":
                yield from self._redrawn(text)
            elif text.strip():
                self._bar = ""
                yield text
            elif self._bar:
                yield self._bar
                self._bar = ""

    def end(self) -> Iterator[str]:
        """What is left when the stream ends."""
        yield from self.feed(b"\n")

    def _redrawn(self, text: str) -> Iterator[str]:
        if not text.strip():
            return
        self._bar = text
        if self._clock() - self._bar_at >= BAR_INTERVAL_S:
            self._bar_at = self._clock()
            self._bar = ""
            yield text


class FloodGate:
    """Lets 200 lines a second pass in the long run, says how many it dropped, and keeps the last ones."""

    def __init__(self, clock: Callable[[], float], most_bytes: int = LOG_BYTES) -> None:
        """`most_bytes`: of all lines together; then only the last ones pass, at the end."""
        self._clock = clock
        self._left = most_bytes
        self._full = f"… the log has reached {most_bytes / 1024**2:g} MiB; only its last lines will follow"
        self._tokens = float(BURST_LINES)
        self._at = clock()
        self._dropped: deque[str] = deque(maxlen=TAIL_LINES)
        self._count = 0

    def pass_on(self, line: str) -> Iterator[str]:
        """The line, preceded by a word on those dropped before it; or nothing."""
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._at) * LINES_PER_S, BURST_LINES)
        self._at = now
        if self._left <= 0:
            if self._full:
                yield self._full
                self._full = ""
            self._dropped.append(line)
            self._count += 1
            return
        # Once lines are dropped, drop on until half a second's worth may pass: one notice for many lines.
        cost = max(1.0, min(len(line), LINE_CHARACTERS) / LINE_SIZE)
        if self._tokens < (LINES_PER_S / 2 if self._count else cost):
            self._dropped.append(line)
            self._count += 1
            return
        if self._count:
            yield f"… {self._count} lines dropped"
            self._count = 0
            self._dropped.clear()
        self._tokens -= cost
        self._left -= min(len(line), LINE_CHARACTERS)
        yield line

    def end(self) -> Iterator[str]:
        """The last lines, if they were held back."""
        if self._count > len(self._dropped):
            yield f"… {self._count - len(self._dropped)} lines dropped"
        yield from self._dropped
        self._dropped.clear()
        self._count = 0
