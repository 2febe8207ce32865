"""How a line of the report is made, and how bytes and rates are written in it. Knows no check."""

from workers.contract.preflight import Line, State, Unit

GIB = 2**30
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def line(
    name: str, state: State, words: str, to_do: str = "", value: float | None = None, unit: Unit = "bytes"
) -> Line:
    """One line, cut to what a report takes. `unit` is that of `value`."""
    return Line(
        name=name[:60],
        state=state,
        words=words[:2000],
        to_do=to_do[:1000],
        value=value,
        unit=unit if value is not None else "",
    )


def size(count: float) -> str:
    """Bytes in the binary unit that reads best: 1610612736 → '1.5 GiB'."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 or amount >= 100 else f"{amount:.1f} {_UNITS[unit]}"


def rate(bytes_per_s: float) -> str:
    """Bandwidth in decimal units, as disks and links are sold: 1.5e9 → '1.5 GB/s'."""
    for limit, unit in ((1e9, "GB/s"), (1e6, "MB/s")):
        if bytes_per_s >= limit:
            return f"{bytes_per_s / limit:.3g} {unit}"
    return f"{bytes_per_s / 1e3:.3g} kB/s"


def duration(seconds: float) -> str:
    """0.0123 → '12 ms', 3.21 → '3.2 s', 200 → '200 s'."""
    if seconds < 1:
        return f"{max(seconds * 1000, 1):.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
