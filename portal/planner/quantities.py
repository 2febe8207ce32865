"""Numbers as people say them: '6.74 G', '12.3 ms', '1.5 GB'. Decimal units, as data sheets have
them; a device's memory in binary GiB."""

from portal.planner.hardware import GIB

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float) -> str:
    """Three digits and the prefix of the unit that follows: '312 T' for FLOP/s, '512 ' below a thousand."""
    for scale, prefix in PREFIXES:
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g} "


def number(things: float) -> str:
    """'6.48 G' parameters, '512' scores."""
    return amount(things).rstrip()


def size(bytes_: float) -> str:
    """Bytes: '13.5 GB'."""
    return f"{amount(bytes_)}B"


def seconds(value: float) -> str:
    """'1.25 s', '12.3 ms', '40 µs'."""
    if value >= 1:
        return f"{value:,.2f} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.3g} µs"


def of(taken: int, capacity: int) -> str:
    """'14.2 of 80.0 GiB', with as many digits as tell the two apart."""
    for digits in (1, 2, 3):
        shown = f"{taken / GIB:.{digits}f}", f"{capacity / GIB:.{digits}f}"
        if shown[0] != shown[1]:
            break
    return f"{shown[0]} of {shown[1]} GiB"
