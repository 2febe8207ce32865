"""The orders of an attempt on several nodes: one for each, and where they meet. Writes nothing.

Knows nothing of who is placed where (scheduler).
"""

from collections.abc import Sequence

from portal.fleet.fabric import fabric_of
from portal.fleet.models import Node
from workers.contract.names import token_of
from workers.contract.order import Device, Order, Team

PORTS = range(20_000, 30_000)
"""Below those that systems give out by themselves. Attempts that begin on one node at a time hardly meet here."""

Part = tuple[Node, tuple[Device, ...]]
"""A node and the devices that the attempt has there."""


def spread(order: Order, parts: Sequence[Part]) -> tuple[Order, ...]:
    """The order for each of the nodes, the first of which leads. `order`: that of the first one as if it was alone."""
    if len(parts) == 1:
        return (order,)
    return tuple(
        order.model_copy(
            update={
                "token": token_of(order.token, rank),
                "node": node.name,
                "devices": devices,
                "result_uri": f"{order.result_uri}/node-{rank}" if rank else order.result_uri,
                "team": Team(
                    rank=rank,
                    nodes=len(parts),
                    host=parts[0][0].address,
                    port=PORTS[int(order.token, 16) % len(PORTS)],
                    settings=_settings(node, devices),
                ),
            }
        )
        for rank, (node, devices) in enumerate(parts)
    )


def _settings(node: Node, devices: Sequence[Device]) -> dict[str, str]:
    """What NCCL and gloo are told; without a known interface they choose one."""
    interface = fabric_of(node)
    settings = {"GLOO_SOCKET_IFNAME": interface.name} if interface else {}
    if any(device.kind == "cuda" for device in devices):
        settings["NCCL_DEBUG"] = "WARN"
        if interface:
            settings["NCCL_SOCKET_IFNAME"] = f"={interface.name}"  # just this name, not all that begin with it
    return settings
