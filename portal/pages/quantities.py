"""Bytes and seconds in the unit that reads best, to three digits. Knows nothing of what they are of."""

from math import floor, log

BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def size(count: float) -> str:
    """65536 → '64 KiB'. `count` is positive."""
    unit = min(max(0, floor(log(count, 1024) + 1e-9)), len(BYTE_UNITS) - 1)
    return f"{count / 1024**unit:.3g} {BYTE_UNITS[unit]}"


def duration(seconds: float) -> str:
    """0.0123 → '12.3 ms'."""
    least, unit = next(((least, unit) for least, unit in SECONDS if seconds >= least * 0.9995), SECONDS[-1])
    return f"{seconds / least:.3g} {unit}"
