"""Devices, the links between them, and fleets of like nodes: what a plan may run on.

Figures are data sheets' or a node's own report, never measurements of a run (calibration has those). Knows nothing of
models.
"""

from dataclasses import dataclass, field
from typing import Literal

GIB = 2**30


@dataclass(frozen=True)
class DeviceSpec:
    """One kind of device. Bytes, bytes per second, FLOP/s (dense, without sparsity), watts, US dollars."""

    name: str
    title: str
    kind: Literal["cuda", "rocm", "cpu"]
    memory_bytes: int
    bandwidth: float
    """Device memory, bytes per second."""
    flops: dict[str, float]
    """Peak FLOP/s by number type: 'fp32', 'tf32', 'fp16', 'bf16', 'fp8', 'int8'. A type it can't do is absent."""
    tdp_w: float | None = None
    link: str = "pcie"
    """How devices of one node reach each other: 'nvlink', 'xgmi' or 'pcie'."""
    link_bandwidth: float = 32e9
    """Bytes per second, one direction, between two devices of a node."""
    price_per_hour: float | None = None
    """US dollars per device-hour, a public on-demand price; an admin may set another."""
    source: str = ""
    """Where the figures are published."""
    capability: float | None = None
    """CUDA compute capability, e.g. 8.0."""
    host_bandwidth: float = 32e9
    """Bytes per second, one direction, between the device and the host's memory."""
    repacks_nf4: bool = False
    """A CPU with AVX512-BF16, for which bitsandbytes lays 4-bit weights out anew."""

    def has(self, number: str) -> bool:
        """Whether the device computes in this number type by itself."""
        return number in self.flops


@dataclass(frozen=True)
class Fabric:
    """What joins nodes. Bytes per second, one direction, each node; latency in seconds."""

    name: str
    title: str
    bandwidth: float
    latency_s: float = 10e-6
    source: str = ""


@dataclass(frozen=True)
class NodeGroup:
    """`nodes` like nodes of `devices` like devices each."""

    name: str
    device: DeviceSpec
    nodes: int
    devices: int
    ram_bytes: int = 0
    """Host memory of one node; 0 when unknown."""
    disk_bandwidth: float | None = None
    """Bytes per second read from the node's disk; None when unknown."""
    names: tuple[str, ...] = ()
    """The real nodes of the group, where it is a fleet's."""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fleet:
    """What there is to plan on."""

    name: str
    groups: tuple[NodeGroup, ...]
    fabric: Fabric | None = None
    """None: nodes can't work on one job together."""

    @property
    def devices(self) -> int:
        return sum(group.nodes * group.devices for group in self.groups)
