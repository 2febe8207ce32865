"""A run's events on disk, before anything else: numbered, appended, never lost to a broker's outage.

`Spool` writes RUN_DIR/spool.jsonl, one Envelope a line; seq starts at 1, has no gaps and ends with Finished.
`workers.shipping` sends it on. Doesn't know where events come from.
"""

import os
import re
import threading
import time
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

from workers.contract.events import Envelope, Finished
from workers.contract.names import SHIPPED_FILE, SPOOL_FILE
from workers.contract.reasons import Reason

_READ_BYTES = 256 * 1024
_SEQ = re.compile(rb'"seq":(\d+)')
_RUN_DIR_NAME = re.compile(r"(?P<job>0|[1-9]\d*)-(?P<attempt>[1-9]\d*)(?:-(?P<token>[A-Za-z0-9]+))?", re.ASCII)


def run_dir_name(job: int, attempt: int, token: str = "") -> str:
    """`<job>-<attempt>-<token>`: two databases may count jobs alike, but no two attempts share a token."""
    return f"{job}-{attempt}" + (f"-{token}" if token else "")


def identity_of(run_dir: Path) -> tuple[int, int, str] | None:
    """(job, attempt, token) by the directory's name; None for one that `run_dir_name` didn't make."""
    named = _RUN_DIR_NAME.fullmatch(run_dir.name)
    return (int(named["job"]), int(named["attempt"]), named["token"] or "") if named else None


class Spool:
    """The event file of one attempt. Threads may share it."""

    def __init__(self, run_dir: Path, job: int, attempt: int, token: str = "") -> None:
        """Opens the file, or makes it; a last line that was cut off by a crash is dropped."""
        self.run_dir = run_dir
        self.job = job
        self.attempt = attempt
        self.token = token
        self.wrote = threading.Event()
        """Set by each append; the shipper clears it."""
        self._lock = threading.Lock()
        self._file = os.open(run_dir / SPOOL_FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._seq, self._ended, self._size = _end_of(run_dir / SPOOL_FILE)
        os.ftruncate(self._file, self._size)

    @classmethod
    def of_run_dir(cls, run_dir: Path) -> Self:
        """The spool of a directory that `run_dir_name` named. Raises ValueError for another name."""
        identity = identity_of(run_dir)
        if identity is None:
            raise ValueError(f"{run_dir.name!r} is not the name of a run directory.")
        return cls(run_dir, *identity)

    @property
    def finished(self) -> bool:
        """Whether Finished, the last event, is written."""
        return self._ended is not None

    @property
    def ended(self) -> Reason | None:
        """Finished's reason, once it is written."""
        return self._ended

    @property
    def last_seq(self) -> int:
        """0 before the first event."""
        return self._seq

    @property
    def size(self) -> int:
        """Bytes of the whole lines."""
        return self._size

    @property
    def shipped(self) -> int:
        """Bytes that the sink has taken."""
        try:
            return int((self.run_dir / SHIPPED_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def append(self, *events: BaseModel) -> None:
        """Number and write events in one write. After Finished nothing is written. Raises OSError (disk full)."""
        with self._lock:
            lines: list[str] = []
            ended = self._ended
            for event in events:
                if ended is not None:
                    break
                envelope = Envelope(
                    job=self.job,
                    attempt=self.attempt,
                    token=self.token,
                    seq=self._seq + len(lines) + 1,
                    at=time.time(),
                    event=event,
                )
                lines.append(envelope.model_dump_json() + "\n")
                ended = event.reason if isinstance(event, Finished) else None
            self._write("".join(lines).encode())
            self._seq += len(lines)
            self._ended = ended
        self.wrote.set()

    def read(self, offset: int) -> tuple[list[Envelope], int]:
        """Whole lines from `offset` (bytes), about 256 KiB of them at most, and the offset after them."""
        size = min(_READ_BYTES, self._size - offset)
        data = os.pread(self._file, max(size, 0), offset)
        while data and b"\n" not in data:
            data += os.pread(self._file, _READ_BYTES, offset + len(data))
        whole = data[: data.rfind(b"\n") + 1]
        return [Envelope.model_validate_json(line) for line in whole.splitlines()], offset + len(whole)

    def offset_after(self, seq: int) -> int:
        """Bytes before the event that follows `seq`; the size when there is none."""
        offset = 0
        with (self.run_dir / SPOOL_FILE).open("rb") as lines:
            for line in lines:
                if _seq_of(line) > seq or offset >= self._size:
                    break
                offset += len(line)
        return offset

    def mark_shipped(self, offset: int) -> None:
        """Remember on disk that the sink has taken everything before `offset`."""
        fresh = self.run_dir / f"{SHIPPED_FILE}.new"
        fresh.write_text(str(offset))
        fresh.replace(self.run_dir / SHIPPED_FILE)

    def close(self) -> None:
        """For a spool that is finished: later events are ignored anyway."""
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += written


def _end_of(path: Path) -> tuple[int, Reason | None, int]:
    """(last seq, Finished's reason, bytes up to the end of the last whole line)."""
    seq, last, good = 0, b"", 0
    with path.open("rb") as lines:
        for line in lines:
            found = _seq_of(line)
            if found != seq + 1 or not line.endswith(b"}\n"):
                break
            seq, last, good = found, line, good + len(line)
    if not last:
        return 0, None, 0
    try:
        envelope = Envelope.model_validate_json(last)
    except ValidationError:  # a crash of the machine may leave a line with a hole in it
        return seq - 1, None, good - len(last)
    return seq, envelope.event.reason if isinstance(envelope.event, Finished) else None, good


def _seq_of(line: bytes) -> int:
    """The number of a line that this module wrote, 0 of any other; cheaper than to read all of it."""
    found = _SEQ.search(line)
    return int(found[1]) if found else 0
