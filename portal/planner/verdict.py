"""Fits, tight or exceeds: a band of bytes against a device. Knows nothing of what the bytes are for."""

from portal.planner.answer import Verdict


def judge(expected: int, high: int, usable: int, capacity: int) -> Verdict:
    """'fits': the expected bytes stay under what may be used, and the high end under what there is. 'exceeds': the
    expected bytes are beyond what there is. 'tight': between."""
    if expected > capacity:
        return "exceeds"
    return "fits" if expected <= usable and high <= capacity else "tight"
