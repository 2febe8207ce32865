"""Seconds of collectives on the links of a placement: which link a group of devices talks over, and how long.

Bytes are one device's buffer. Knows nothing of models or methods.

Sources: ring all-reduce moves 2(n-1)/n and all-gather or reduce-scatter (n-1)/n of the buffer through every device
(Patarasuk and Yuan 2009; NCCL's performance notes); latency grows with log2(n) on NCCL's trees. Shares of the line
rate are what nccl-tests commonly reports as bus bandwidth: about 240 of 300 GB/s on an A100's NVLink, half of PCIe's
rate through host bridges.
"""

from dataclasses import dataclass
from math import log2

from portal.planner.hardware import DeviceSpec, Fabric
from portal.planner.rules import Rules

LINE_SHARE = {"nvlink": 0.8, "xgmi": 0.7, "pcie": 0.5}
"""Share of a device link's rate that a ring reaches."""
FABRIC_SHARE = 0.85
LATENCY_S = {"nvlink": 15e-6, "xgmi": 20e-6, "pcie": 30e-6}
"""Of a small collective inside a node, launch included; it grows by a third per doubling of the devices. Fits the
decoding of gpt-fast on 2, 4 and 8 A100, where an all-reduce of some kilobytes costs 20 to 33 µs."""
DOUBLINGS_TO_MOST = 7
"""The rule's share grows evenly from two devices to 256."""


@dataclass(frozen=True)
class Link:
    """What a group of devices talks over. `bandwidth`: bytes per second for one device; `title` for the words."""

    bandwidth: float
    latency_s: float
    title: str


@dataclass(frozen=True)
class Wiring:
    """`nodes` nodes of `devices` each that work on one job, joined by `fabric` when there are several.

    Devices are numbered node by node, and groups laid out as Megatron-LM does (arXiv:2104.04473, section 3): the
    tensor group innermost, then data-parallel replicas, pipeline stages outermost.
    """

    device: DeviceSpec
    nodes: int
    devices: int
    fabric: Fabric | None

    def link(self, size: int, stride: int) -> Link:
        """Of a group of `size` devices that are `stride` apart: inside a node when it fits there, else the fabric.

        The groups of a node that cross it at the same time share its port; a group with several devices in a node
        crosses once (one ring). Raises ValueError for a group across nodes that nothing joins.
        """
        inside = self.device.link
        within = Link(
            self.device.link_bandwidth * LINE_SHARE.get(inside, LINE_SHARE["pcie"]),
            LATENCY_S.get(inside, LATENCY_S["pcie"]),
            {"nvlink": "NVLink", "xgmi": "xGMI"}.get(inside, "PCIe"),
        )
        if self.nodes == 1 or size * stride <= self.devices:
            return within
        if self.fabric is None:
            raise ValueError(f"{self.nodes} nodes of {self.device.name} are joined by nothing")
        sharing = min(stride, self.devices)
        bandwidth = self.fabric.bandwidth * FABRIC_SHARE / sharing
        return Link(min(bandwidth, within.bandwidth), self.fabric.latency_s + within.latency_s, self.fabric.title)


def all_reduce_s(size: float, count: int, link: Link) -> float:
    """Every one of `count` devices ends with the sum of all their buffers of `size` bytes."""
    if count < 2:
        return 0.0
    return 2 * (count - 1) / count * size / link.bandwidth + _latency_s(count, link)


def all_gather_s(size: float, count: int, link: Link) -> float:
    """Every device ends with all `size` bytes, of which each had its part; a reduce-scatter takes as long."""
    if count < 2:
        return 0.0
    return (count - 1) / count * size / link.bandwidth + _latency_s(count, link)


def _latency_s(count: int, link: Link) -> float:
    return link.latency_s * (1 + log2(count) / 3)


def send_s(size: float, link: Link) -> float:
    """`size` bytes to a neighbour."""
    return size / link.bandwidth + link.latency_s


def bubble_share(stages: int, micro_batches: int) -> float:
    """Share of a step in which a stage of the pipeline waits: (p-1) / (m+p-1) (Huang et al. 2019, GPipe; 1F1B has the
    same, arXiv:2104.04473, section 2.2)."""
    return (stages - 1) / (micro_batches + stages - 1)


def least_share(devices: int, rules: Rules) -> float:
    """The rule's share of collectives: `nccl_share` at two devices, evenly more per doubling, `nccl_share_most` from
    256 on; 0 for one device."""
    if devices < 2:
        return 0.0
    grown = (rules.nccl_share_most - rules.nccl_share) * (log2(devices) - 1) / DOUBLINGS_TO_MOST
    return rules.nccl_share + min(grown, rules.nccl_share_most - rules.nccl_share)
