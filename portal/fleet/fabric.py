"""Which network interface of a node carries the traffic of jobs that run on several: a pure function of its profile.

Knows nothing of jobs, nor whether two nodes reach each other.
"""

import ipaddress
from collections.abc import Iterable

from portal.fleet.models import Node
from workers.contract.events import InterfaceProfile


def fabric(address: str, interfaces: Iterable[InterfaceProfile]) -> InterfaceProfile | None:
    """The fastest interface; of equals the one with the node's address. None where none is known.

    A node whose own address is a loopback one is reached by nobody else, so its loopback interface is the one.
    """
    local = is_loopback(address)
    fit = [interface for interface in interfaces if is_loopback(interface.address) == local]
    return max(fit, key=lambda one: (one.bits_per_s or 0, one.address == address, one.name), default=None)


def fabric_of(node: Node) -> InterfaceProfile | None:
    """That of a node."""
    return fabric(node.address, [InterfaceProfile.model_validate(one) for one in node.interfaces])


def is_loopback(address: str) -> bool:
    """Whether it is an address of the machine to itself."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
