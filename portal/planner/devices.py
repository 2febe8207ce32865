"""The catalogue of devices and fabrics, and which of them a node's own report means.

`memory_bytes` is what the driver reports as the device's total (nvidia-smi, amd-smi), not the round number of its
name: an H100 "80 GB" has 81,559 MiB, of which the driver keeps about 1% for itself. FLOP/s are dense, with 32-bit
accumulation where a data sheet lists both. Prices are one public on-demand price a device-hour each. Knows nothing of
models, nor of what a run measured.
"""

import re
from dataclasses import replace
from typing import Literal

from portal.planner.hardware import DeviceSpec, Fabric

MIB = 2**20
PCIE = {3: 16.0, 4: 32.0, 5: 64.0}
"""GB/s, one direction, of sixteen lanes by generation (PCI-SIG)."""

Tflops = dict[str, float]
VOLTA: Tflops = {"fp32": 15.7, "fp16": 125}
AMPERE: Tflops = {"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312, "int8": 624}
HOPPER: Tflops = {"fp32": 67, "tf32": 495, "fp16": 989, "bf16": 989, "fp8": 1979, "int8": 1979}

CPU_CORE_FLOPS = 80e9
"""fp32 FLOP/s of one core: two AVX2 multiply-add units of eight lanes at 2.5 GHz."""
CPU_CORE_BANDWIDTH, CPU_BANDWIDTH = 10e9, 200e9
"""Bytes per second that one core draws from RAM, and the most of a socket (eight channels of DDR4-3200)."""
CPU_BF16 = 0.25
"""Share of the fp32 rate at bf16, which a CPU without AMX emulates with conversions."""

SAME_MEMORY = 0.12
"""A report whose memory is this near to a catalogue device's means that device; a MIG slice is further off."""


def _gpu(
    name: str,
    title: str,
    mib: int,
    gb_s: float,
    tflops: Tflops,
    watts: float,
    capability: float | None,
    price: float,
    source: str,
    *,
    pcie: int = 4,
    link: str = "pcie",
    link_gb_s: float | None = None,
    kind: Literal["cuda", "rocm"] = "cuda",
) -> DeviceSpec:
    return DeviceSpec(
        name=name,
        title=title,
        kind=kind,
        memory_bytes=mib * MIB,
        bandwidth=gb_s * 1e9,
        flops={number: peak * 1e12 for number, peak in tflops.items()},
        tdp_w=watts,
        link=link,
        link_bandwidth=(link_gb_s or PCIE[pcie]) * 1e9,
        price_per_hour=price,
        source=source,
        capability=capability,
        host_bandwidth=PCIE[pcie] * 1e9,
    )


def of_cpu(name: str, cores: int, ram_bytes: int, capability: str = "") -> DeviceSpec:
    """A node's CPU as one device: AVX2 at 2.5 GHz and 10 GB/s of RAM a core, up to one socket's. `cores`: logical;
    `capability`: 'avx512_bf16' where it has that.

    Assumed, not measured: calibration corrects it.
    """
    cores = max(1, cores)
    flops = cores * CPU_CORE_FLOPS
    return DeviceSpec(
        name="cpu",
        title=name or "CPU",
        kind="cpu",
        memory_bytes=ram_bytes,
        bandwidth=min(cores * CPU_CORE_BANDWIDTH, CPU_BANDWIDTH),
        flops={"fp32": flops, "bf16": flops * CPU_BF16},
        link_bandwidth=CPU_BANDWIDTH,
        host_bandwidth=CPU_BANDWIDTH,
        source=f"Assumed of {cores} cores: AVX2 at 2.5 GHz, 10 GB/s of RAM a core up to 200 GB/s",
        repacks_nf4=capability == "avx512_bf16",
    )


# fmt: off
_LISTED = (
    _gpu("a100-40", "A100 40 GB", 40_960, 1555, AMPERE, 400, 8.0, 1.00,
         "NVIDIA A100 data sheet (SXM4); price: RunPod community cloud, August 2026", link="nvlink", link_gb_s=300),
    _gpu("a100-80", "A100 80 GB", 81_920, 2039, AMPERE, 400, 8.0, 1.79,
         "NVIDIA A100 data sheet (SXM4); price: RunPod secure cloud, November 2026", link="nvlink", link_gb_s=300),
    _gpu("h100-80", "H100 80 GB", 81_559, 3350, HOPPER, 700, 9.0, 3.99,
         "NVIDIA H100 data sheet (SXM5); price: RunPod secure cloud, November 2026",
         pcie=5, link="nvlink", link_gb_s=450),
    _gpu("h100-pcie", "H100 PCIe 80 GB", 81_559, 2000,
         {"fp32": 51, "tf32": 378, "fp16": 756, "bf16": 756, "fp8": 1513, "int8": 1513}, 350, 9.0, 2.89,
         "NVIDIA H100 data sheet (PCIe); price: RunPod secure cloud, November 2026", pcie=5),
    _gpu("h200", "H200", 143_771, 4800, HOPPER, 700, 9.0, 4.59,
         "NVIDIA H200 data sheet (SXM); price: RunPod, October 2026", pcie=5, link="nvlink", link_gb_s=450),
    _gpu("b200", "B200", 183_359, 8000,
         {"fp32": 75, "tf32": 1125, "fp16": 2250, "bf16": 2250, "fp8": 4500, "int8": 4500}, 1000, 10.0, 6.79,
         "NVIDIA DGX B200 data sheet, per GPU; price: RunPod, October 2026", pcie=5, link="nvlink", link_gb_s=900),
    _gpu("l4", "L4", 23_034, 300,
         {"fp32": 30.3, "tf32": 60, "fp16": 121, "bf16": 121, "fp8": 242, "int8": 242}, 72, 8.9, 0.43,
         "NVIDIA L4 data sheet; price: RunPod secure cloud, 2025"),
    _gpu("l40s", "L40S", 46_068, 864,
         {"fp32": 91.6, "tf32": 183, "fp16": 362, "bf16": 362, "fp8": 733, "int8": 733}, 350, 8.9, 0.86,
         "NVIDIA L40S data sheet; price: RunPod secure cloud, 2025"),
    _gpu("a10", "A10", 23_028, 600,
         {"fp32": 31.2, "tf32": 62.5, "fp16": 125, "bf16": 125, "int8": 250}, 150, 8.6, 1.29,
         "NVIDIA A10 data sheet; price: Lambda, 2026"),
    _gpu("t4", "T4", 15_360, 320, {"fp32": 8.1, "fp16": 65, "int8": 130}, 70, 7.5, 0.526,
         "NVIDIA T4 data sheet; price: AWS g4dn.xlarge, us-east-1, 2025", pcie=3),
    _gpu("v100", "V100 32 GB", 32_768, 900, VOLTA, 300, 7.0, 3.90,
         "NVIDIA V100 data sheet (SXM2); price: an eighth of AWS p3dn.24xlarge, us-east-1, 2025",
         pcie=3, link="nvlink", link_gb_s=150),
    _gpu("v100-16", "V100 16 GB", 16_384, 900, VOLTA, 300, 7.0, 0.79,
         "NVIDIA V100 data sheet (SXM2); price: an eighth of Lambda's 8 × V100, 2026",
         pcie=3, link="nvlink", link_gb_s=150),
    _gpu("rtx-3090", "RTX 3090", 24_576, 936,
         {"fp32": 35.6, "tf32": 35.6, "fp16": 71, "bf16": 71, "int8": 284}, 350, 8.6, 0.43,
         "NVIDIA GA102 architecture paper; price: RunPod secure cloud, 2025"),
    _gpu("rtx-4090", "RTX 4090", 24_564, 1008,
         {"fp32": 82.6, "tf32": 82.6, "fp16": 165, "bf16": 165, "fp8": 330, "int8": 661}, 450, 8.9, 0.69,
         "NVIDIA Ada architecture paper; price: RunPod secure cloud, June 2026"),
    _gpu("rtx-5090", "RTX 5090", 32_607, 1792,
         {"fp32": 104.8, "tf32": 104.8, "fp16": 209.5, "bf16": 209.5, "fp8": 419, "int8": 838}, 575, 12.0, 0.89,
         "NVIDIA RTX Blackwell architecture paper; price: RunPod secure cloud, 2025", pcie=5),
    _gpu("6000-ada", "RTX 6000 Ada", 49_140, 960,
         {"fp32": 91.1, "tf32": 182, "fp16": 364, "bf16": 364, "fp8": 728, "int8": 728}, 300, 8.9, 0.77,
         "NVIDIA RTX 6000 Ada data sheet; price: RunPod secure cloud, 2025"),
    _gpu("mi300x", "MI300X", 196_592, 5300,
         {"fp32": 163.4, "tf32": 653.7, "fp16": 1307, "bf16": 1307, "fp8": 2615, "int8": 2615}, 750, None, 2.59,
         "AMD Instinct MI300X data sheet, seven links of 64 GB/s; price: DigitalOcean, October 2026",
         pcie=5, link="xgmi", link_gb_s=448, kind="rocm"),
    replace(
        of_cpu("CPU, 32 cores", 32, 256 * 1024 * MIB), tdp_w=270, price_per_hour=3.072,
        source="A generic server: 32 cores with AVX2, 256 GiB of DDR4-3200; price: AWS m6i.16xlarge, us-east-1, 2025",
    ),
)
# fmt: on
DEVICES: dict[str, DeviceSpec] = {device.name: device for device in _LISTED}


def _fabric(name: str, title: str, gbps: float, latency_us: float, source: str) -> Fabric:
    return Fabric(name, title, bandwidth=gbps * 1e9 / 8, latency_s=latency_us * 1e-6, source=source)


_INFINIBAND = "NVIDIA Quantum data sheets: HDR 200 and NDR 400 Gbps a port"
_ETHERNET = "IEEE 802.3 line rate; latency of a TCP stack"
_FABRICS = (
    _fabric("ib-200", "InfiniBand 200 Gbps", 200, 5, _INFINIBAND),
    _fabric("ib-400", "InfiniBand 400 Gbps", 400, 5, _INFINIBAND),
    _fabric("ib-8x200", "8 × InfiniBand 200 Gbps", 1600, 5, "NVIDIA DGX A100 data sheet: one 200 Gbps port a GPU"),
    _fabric("ib-8x400", "8 × InfiniBand 400 Gbps", 3200, 5, "NVIDIA DGX H100 data sheet: one 400 Gbps port a GPU"),
    _fabric("roce-100", "RoCE 100 Gbps", 100, 8, "IEEE 802.3 line rate; RDMA over Converged Ethernet v2"),
    _fabric("roce-200", "RoCE 200 Gbps", 200, 8, "IEEE 802.3 line rate; RDMA over Converged Ethernet v2"),
    _fabric("10gbe", "Ethernet 10 Gbps", 10, 30, _ETHERNET),
    _fabric("25gbe", "Ethernet 25 Gbps", 25, 30, _ETHERNET),
    _fabric("100gbe", "Ethernet 100 Gbps", 100, 30, _ETHERNET),
)
FABRICS: dict[str, Fabric] = {fabric.name: fabric for fabric in _FABRICS}

_WORDS: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = tuple(
    (frozenset(words.split()), tuple(names.split()))
    for words, names in (
        ("A100", "a100-80 a100-40"),
        ("H100 PCIE", "h100-pcie"),
        ("H100", "h100-80"),
        ("H200", "h200"),
        ("B200", "b200"),
        ("L4", "l4"),
        ("L40S", "l40s"),
        ("A10", "a10"),
        ("T4", "t4"),
        ("V100", "v100 v100-16"),
        ("RTX 3090", "rtx-3090"),
        ("RTX 4090", "rtx-4090"),
        ("RTX 5090", "rtx-5090"),
        ("RTX 6000 ADA", "6000-ada"),
        ("MI300X", "mi300x"),
    )
)
"""Words of a reported name → catalogue devices that it may be."""
_OTHERS = {"NVL", "MIG", "LAPTOP", "TI", "D", "MAX"}
"""Words that make it another device than its number says: 'H100 NVL', 'RTX 3090 Ti', 'RTX 4090 Laptop GPU'."""

_GUESSES = ((9.0, "h100-pcie"), (8.9, "l4"), (8.0, "a10"), (0.0, "t4"))
"""Least CUDA capability → the listed device whose figures stand in for one that isn't listed."""


def match(name: str, memory_bytes: int) -> DeviceSpec | None:
    """The catalogue device that a driver's name ('NVIDIA A100-SXM4-80GB') and total memory mean; None: not listed.

    The memory is the node's own figure, and a PCIe card's link that of its slot.
    """
    words = set(re.findall(r"[A-Z0-9]+", name.upper()))
    if words & _OTHERS:
        return None
    for needed, names in _WORDS:
        if needed <= words:
            near = min((DEVICES[known] for known in names), key=lambda device: abs(device.memory_bytes - memory_bytes))
            if abs(near.memory_bytes - memory_bytes) > SAME_MEMORY * near.memory_bytes:
                return None
            if "PCIE" in words and near.link != "pcie":
                near = replace(near, link="pcie", link_bandwidth=PCIE[4 if "A100" in words else 3] * 1e9)
            return replace(near, memory_bytes=memory_bytes)
    return None


def of_gpu(name: str, memory_bytes: int, capability: float | None = None) -> DeviceSpec:
    """The device a node reports: the catalogue's, or, when it isn't listed, a modest guess from its capability."""
    known = match(name, memory_bytes)
    if known is not None:
        return known
    like = next(DEVICES[name] for least, name in _GUESSES if (capability or 0) >= least)
    return replace(
        like,
        name=re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu",
        title=name or "GPU",
        memory_bytes=memory_bytes,
        tdp_w=None,
        price_per_hour=None,
        capability=capability,
        source=f"Not in the catalogue: figures of the {like.title}, with the node's own memory",
    )
