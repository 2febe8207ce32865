"""The interface that carries a job's traffic between nodes, by a node's profile."""

import pytest

from portal.fleet.fabric import fabric
from workers.contract.events import InterfaceProfile
from workers.contract.names import fence_of, rank_of, token_of


def interface(name: str, address: str, gigabits: int | None = None) -> InterfaceProfile:
    return InterfaceProfile(name=name, address=address, bits_per_s=None if gigabits is None else gigabits * 10**9)


HERE = (
    interface("lo", "127.0.0.1"),
    interface("eth0", "10.0.0.1", 10),
    interface("eth1", "10.1.0.1", 10),
    interface("ib0", "192.168.0.1", 200),
)


@pytest.mark.parametrize(
    ("address", "interfaces", "expected"),
    [
        ("10.1.0.1", HERE, "ib0"),
        ("10.1.0.1", HERE[:3], "eth1"),
        ("gpu-7.example.org", HERE[:2], "eth0"),
        ("127.0.0.2", HERE, "lo"),
        ("localhost", HERE, "lo"),
        ("10.1.0.1", HERE[:1], None),
        ("10.1.0.1", (), None),
    ],
)
def test_the_fastest_that_others_reach(
    address: str, interfaces: tuple[InterfaceProfile, ...], expected: str | None
) -> None:
    found = fabric(address, interfaces)
    assert (found.name if found else None) == expected


def test_a_nodes_token_tells_its_place_and_the_attempts_own() -> None:
    for rank in (0, 1, 63):
        token = token_of("00ff", rank)
        assert (fence_of(token), rank_of(token)) == ("00ff", rank)
    assert rank_of("anything") == 0
