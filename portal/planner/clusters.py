"""Built-in hardware by name: one device, a node of several, or nodes joined by a fabric. Knows no real nodes."""

import re

from portal.planner.devices import DEVICES, FABRICS
from portal.planner.hardware import GIB, DeviceSpec, Fabric, Fleet, NodeGroup
from workers.contract.errors import Refused, unknown_name

MOST_NODES = 100_000
MOST_DEVICES = 64
"""In one node."""
EXAMPLES = (
    "8xa100-80",
    "8xh100-80",
    "4xrtx-4090",
    "2x8-a100-80-25gbe",
    "2x8-a100-80-ib-200",
    "4x8-h100-80-ib-400",
    "16x8-h100-80-ib-8x400",
)
FAST_FABRIC, PLAIN_FABRIC = "ib-200", "25gbe"
"""What is assumed to join nodes whose name says no fabric: with NVLink or xGMI inside, and otherwise."""
RAM_SHARE, LEAST_RAM = 2, 64 * GIB
"""Host memory that is assumed of a node: twice its devices', at least 64 GiB. A DGX A100 or H100 has three times."""
PATTERN = "a device (a100-80), devices in a node (8xh100-80), or nodes x devices and a fabric (2x8-a100-80-25gbe)"

_IN_ONE_NODE = re.compile(r"(\d{1,9})x(.+)")
_IN_NODES = re.compile(r"(\d{1,9})x(\d{1,9})-(.+)")


def names() -> tuple[str, ...]:
    """Every device's name and some examples of clusters; any other of the pattern works too."""
    return (*DEVICES, *EXAMPLES)


def fleet(name: str, nodes: int = 1) -> Fleet:
    """`nodes` times the hardware of that name. The fleet's own name says the fabric, assumed or named.

    Raises Refused at 'hardware' for a name that isn't one, with the nearest, and at 'nodes' for a count that can't be.
    """
    asked = name.strip().lower()
    parsed = _parsed(asked)
    if parsed is None:
        alike = [known for known in names() if asked and asked in known]
        error = unknown_name("hardware", "hardware", name, alike or names())
        raise Refused.at("hardware", name, f"{error.message} Names are {PATTERN}.")
    named_nodes, devices, device, fabric = parsed
    if not 1 <= devices <= MOST_DEVICES:
        raise Refused.at("hardware", name, f"hardware: {devices:,} devices in a node; use 1 to {MOST_DEVICES}.")
    for field, value, count in (("hardware", name, named_nodes), ("nodes", nodes, nodes)):
        if not 1 <= count <= MOST_NODES:
            raise Refused.at(field, value, f"{field}: {count:,} nodes is out of range; use 1 to {MOST_NODES:,}.")
    if named_nodes > 1 and nodes not in (1, named_nodes):
        raise Refused.at("nodes", nodes, f"nodes: {name} has {named_nodes:,} nodes already; leave nodes at 1.")
    count = max(nodes, named_nodes)
    if fabric is None and count > 1:
        fabric = FABRICS[PLAIN_FABRIC if device.link == "pcie" else FAST_FABRIC]
    group = NodeGroup(
        name=device.name if devices == 1 else f"{devices}x{device.name}",
        device=device,
        nodes=count,
        devices=devices,
        ram_bytes=device.memory_bytes
        if device.kind == "cpu"
        else max(LEAST_RAM, RAM_SHARE * devices * device.memory_bytes),
    )
    return Fleet(name=_title(group, fabric), groups=(group,), fabric=fabric)


def _parsed(name: str) -> tuple[int, int, DeviceSpec, Fabric | None] | None:
    """(nodes, devices of a node, device, fabric or None); None: no such hardware."""
    found = _kind(name)
    if found is not None:
        return (1, 1, *found)
    one = _IN_ONE_NODE.fullmatch(name)
    if one and (found := _kind(one[2])) is not None:
        return (1, int(one[1]), *found)
    many = _IN_NODES.fullmatch(name)
    if many and (found := _kind(many[3])) is not None:
        return (int(many[1]), int(many[2]), *found)
    return None


def _kind(name: str) -> tuple[DeviceSpec, Fabric | None] | None:
    """'a100-80' or 'a100-80-25gbe'."""
    if name in DEVICES:
        return DEVICES[name], None
    for known, device in DEVICES.items():
        fabric = FABRICS.get(name.removeprefix(f"{known}-"))
        if fabric is not None and name.startswith(f"{known}-"):
            return device, fabric
    return None


def _title(group: NodeGroup, fabric: Fabric | None) -> str:
    if group.nodes == 1:
        return group.name
    return f"{group.nodes}x{group.devices}-{group.device.name}" + (f"-{fabric.name}" if fabric else "")
