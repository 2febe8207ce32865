"""Where a job of so many like devices could run on a fleet, and in words why it can't run elsewhere.

Works on groups of like nodes, so a thousand nodes cost as much as one. Knows nothing of models;
portal.planner.combinations says which methods can't work at all.
"""

from dataclasses import dataclass

from portal.planner.combinations import impossible
from portal.planner.hardware import Fabric, Fleet, NodeGroup

__all__ = ["Spot", "impossible", "spots"]

NAMES_SHOWN = 3


@dataclass(frozen=True)
class Spot:
    """`nodes` nodes of `group`, with `devices_per_node` devices of each."""

    group: NodeGroup
    nodes: int
    devices_per_node: int
    words: str
    """'4 of the 8 devices of one 8xa100-80 node'."""

    @property
    def left_over(self) -> int:
        """Devices of these nodes that stay free."""
        return self.nodes * (self.group.devices - self.devices_per_node)


def spots(fleet: Fleet, devices: int) -> tuple[list[Spot], list[str]]:
    """Places for `devices` like devices, and for every group without one a sentence why.

    Inside one node where they fit, else shared evenly by the fewest nodes that the fabric joins. Those that leave the
    fewest devices over come first, then those on fewer nodes.
    """
    found, refused = [], []
    for group in fleet.groups:
        place = _spot(group, devices, fleet.fabric)
        if isinstance(place, Spot):
            found.append(place)
        else:
            refused.append(place)
    if not fleet.groups:
        refused.append(f"{fleet.name} has no devices.")
    found.sort(key=lambda spot: (spot.left_over, spot.nodes))
    return found, refused


def _spot(group: NodeGroup, devices: int, fabric: Fabric | None) -> Spot | str:
    """The place in one group of like nodes, or why there is none."""
    if devices <= group.devices:
        return Spot(group, 1, devices, _one_node(group, devices))
    what = f"{devices:,} devices don't fit one {group.name} node, which has {group.devices}"
    if group.nodes * group.devices < devices:
        every = f"all {group.nodes:,} of them together have" if group.nodes > 1 else "there is one such node with"
        return f"{what}, and {every} {group.nodes * group.devices:,}."
    if fabric is None:
        return f"{what}, and nothing joins its nodes; name hardware with a fabric, such as 2x8-a100-80-25gbe."
    for each in range(group.devices, 0, -1):
        if devices % each == 0 and devices // each <= group.nodes:
            nodes = devices // each
            part = "" if each == group.devices else f" of its {group.devices}"
            words = f"{nodes:,} nodes with {each}{part} × {group.device.title}, joined by {fabric.title}{_named(group)}"
            return Spot(group, nodes, each, words)
    return f"{what}, and can't be shared evenly by {group.nodes:,} nodes; use a multiple of {group.devices}."


def _one_node(group: NodeGroup, devices: int) -> str:
    part = "" if devices == group.devices else f", {devices} of its {group.devices} devices"
    if devices == group.devices == 1:
        return f"one {group.device.title}{_named(group)}"
    return f"one node of {group.devices} × {group.device.title}{part}{_named(group)}"


def _named(group: NodeGroup) -> str:
    """' (gpu-1, gpu-2, gpu-3 or one of 5 more)': the real nodes, where there are any."""
    if not group.names:
        return ""
    shown = ", ".join(group.names[:NAMES_SHOWN])
    more = len(group.names) - NAMES_SHOWN
    return f" ({shown}{f' or {more:,} more' if more > 0 else ''})"
