"""Two threads that listen to a child: its event lines and its printed lines become spooled events.

Keeps what the supervisor asks for at the end: the child's own word on its failure and its last error line.
Doesn't know how the child was started nor what its end means.
"""

import json
import logging
import math
import os
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic import ValidationError

from workers.coalescing import Coalescer
from workers.contract.events import EVENT, Artifact, Checkpoint, Failed, Finished, Log, Started
from workers.nearby import hear
from workers.output import LINE_CHARACTERS, LOG_BYTES, FloodGate, LineSplitter, Redactor
from workers.spool import Spool

log = logging.getLogger(__name__)

EVENT_BYTES = 1024 * 1024
"""A longer event line is refused."""

_CHUNK = 64 * 1024
_HOLD_S = 0.2
"""Events held back are looked at again this often."""
_LAST_LINES = 50
_LOOKS_LIKE_ERROR = re.compile(
    r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b|\b(?:error|fatal|panic|killed)\b[: ]", re.IGNORECASE
)


class Listener:
    """Reads the child's two pipes until they end; closes them."""

    def __init__(
        self,
        spool: Spool,
        redact: Redactor,
        output_fd: int,
        events_fd: int,
        on_checkpoint: Callable[[Checkpoint], object],
        log_bytes: int = LOG_BYTES,
    ) -> None:
        """`on_checkpoint` takes what the child says of its checkpoints. `log_bytes`: a longer log is cut off."""
        self._spool = spool
        self._redact = redact
        self._on_checkpoint = on_checkpoint
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._gate = FloodGate(time.monotonic, log_bytes)
        self._gate_lock = threading.Lock()
        self._coalescer = Coalescer(time.monotonic)
        self.failed: Failed | None = None
        """The child's own word, once it has said it."""
        self.failed_at = 0.0
        """time.monotonic() of that word."""
        self.broken: OSError | None = None
        """Why events could not be written down (the disk is full); the supervisor ends the run for it."""
        self._threads = [
            threading.Thread(target=self._listen, args=(output_fd, self._read_output), name="output", daemon=True),
            threading.Thread(target=self._listen, args=(events_fd, self._read_events), name="events", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until both pipes have ended."""
        until = time.monotonic() + timeout_s
        for thread in (thread for thread in self._threads if thread.ident):
            thread.join(max(until - time.monotonic(), 0))

    def last_error_line(self) -> str:
        """The last printed line that looks like an error, else the last one; '' when nothing was printed."""
        lines = list(self._last_lines)
        return self._redact(
            next((line for line in reversed(lines) if _LOOKS_LIKE_ERROR.search(line)), lines[-1] if lines else "")
        )

    def _listen(self, descriptor: int, read: Callable[[int], None]) -> None:
        try:
            read(descriptor)
        except OSError as error:
            self.broken = error
        except Exception:
            log.exception("Run %s: reading from the child failed.", self._spool.run_dir.name)
        finally:
            os.close(descriptor)  # a child that still writes gets SIGPIPE instead of waiting for ever

    def _read_output(self, descriptor: int) -> None:
        splitter = LineSplitter(time.monotonic)
        while data := os.read(descriptor, _CHUNK):
            self._log(splitter.feed(data))
        self._log(splitter.end())
        with self._gate_lock:
            self._spool.append(*[Log(text=self._redact(line)) for line in self._gate.end()])

    def _log(self, lines: Iterable[str], stream: Literal["out", "supervisor"] = "out") -> None:
        with self._gate_lock:
            passed: list[Log] = []
            for line in lines:
                if stream == "out":
                    self._last_lines.append(line[:LINE_CHARACTERS])
                passed += [Log(stream=stream, text=self._redact(text)) for text in self._gate.pass_on(line)]
            if passed:
                self._spool.append(*passed)

    def _read_events(self, descriptor: int) -> None:
        rest = b""
        too_long = False
        while data := self._read_or_hold(descriptor):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if not too_long:
                    self._take(line)
                too_long = False
            if len(rest) > EVENT_BYTES:
                if not too_long:
                    self._note(f"The child wrote an event of more than {EVENT_BYTES} bytes; it is left out.")
                rest, too_long = b"", True
        if rest and not too_long:
            self._take(rest)
        self._spool.append(*self._coalescer.end())

    def _read_or_hold(self, descriptor: int) -> bytes:
        """The next bytes; while none come, what was held back goes on as the rate allows."""
        while self._coalescer.holding and not select.select([descriptor], [], [], _HOLD_S)[0]:
            if passed := list(self._coalescer.due()):
                self._spool.append(*passed)
        return os.read(descriptor, _CHUNK)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            said = json.loads(line)
            event = EVENT.validate_python(self._fit(said))
        except (ValueError, ValidationError, RecursionError):
            shown = line[:300].decode(errors="replace")
            self._note(f"The child wrote an event that this worker does not understand: {shown}")
            return
        if isinstance(event, Failed):
            if self.failed is None:
                self.failed, self.failed_at = event, time.monotonic()
        elif isinstance(event, Log):
            self._log(event.text.splitlines())
        elif isinstance(event, Started | Finished | Artifact):
            self._note(f"The child wrote a {event.type!r} event, which is not for it to say; it is left out.")
        elif isinstance(event, Checkpoint):
            if not self._coalescer.holding:
                hear(self._spool.run_dir, event.step)
            self._on_checkpoint(event)
        elif passed := list(self._coalescer.offer(event, len(line))):
            self._spool.append(*passed)

    def _note(self, text: str) -> None:
        self._log([text], "supervisor")

    def _fit(self, said: Any) -> Any:
        """The child's words without secrets; numbers that JSON can't carry are left out (metrics) or null."""
        if isinstance(said, dict) and said.get("type") == "metric" and isinstance(said.get("values"), dict):
            finite = {name: value for name, value in said["values"].items() if not _odd(value)}
            odd = sorted(said["values"].keys() - finite.keys())
            if odd:
                self._note(f"Step {said.get('step')}: {', '.join(odd)} not finite.")
            said = {**said, "values": finite}
        return self._clean(said)

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._redact(value)
        if isinstance(value, dict):
            return {self._redact(str(key)): self._clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._clean(item) for item in value]
        return None if _odd(value) else value


def _odd(value: Any) -> bool:
    """A number that is none; pydantic writes NaN and infinities as null."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))
