"""What this node is (`probe`) and what its devices do now (`sample_devices`).

GPUs through NVML where there are any, else the CPU as one device with the machine's RAM, or several that share it.
Imports no torch: versions come from package metadata. Doesn't know who reads the profile.
"""

import os
import platform
import shutil
import socket
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import psutil

from workers.contract.events import DeviceProfile, InterfaceProfile, NodeProfile
from workers.disk import read_bandwidth
from workers.nvml import DeviceSample, Nvml, open_nvml
from workers.settings import cpu_devices_from, labels_from

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "bitsandbytes")
_NCCL_WHEELS = ("nvidia-nccl-cu13", "nvidia-nccl-cu12")


def probe(
    name: str, *, address: str, home: Path, environment: Mapping[str, str], nvml: Nvml | None = None
) -> NodeProfile:
    """The profile of this node. `home`: where its runs and caches lie; bandwidth and free bytes are of that disk.

    Takes seconds when the disk's speed was last measured more than a day ago. Raises SettingsError for bad labels.
    """
    nvml = nvml or open_nvml()
    # A GPU that shares the machine's memory reports none of its own.
    devices = tuple(
        device if device.memory_bytes else device.model_copy(update={"memory_bytes": ram_bytes()})
        for device in (nvml.devices() if nvml else ())
    )
    home.mkdir(parents=True, exist_ok=True)
    return NodeProfile(
        name=name,
        address=address,
        cores=_cores(),
        ram_bytes=ram_bytes(),
        disk_free_bytes=shutil.disk_usage(home).free,
        disk_read_bytes_per_s=read_bandwidth(home),
        driver=nvml.driver if nvml and devices else None,
        cuda=nvml.cuda if nvml and devices else None,
        versions=_versions(),
        labels=labels_from(environment.get("LIFTOFF_NODE_LABELS", "")),
        devices=devices or cpus(cpu_devices_from(environment.get("LIFTOFF_CPU_DEVICES", ""))),
        links=nvml.links() if nvml else (),
        interfaces=_interfaces(),
    )


def sample_devices(nvml: Nvml | None = None) -> list[DeviceSample]:
    """Each device now. The CPU's utilisation is that since the last call (0 at the first)."""
    nvml = nvml or open_nvml()
    samples = nvml.sample() if nvml else []
    if samples:
        return samples
    memory = psutil.virtual_memory()
    return [
        DeviceSample(0, "cpu", _cpu_name(), psutil.cpu_percent(), memory.total - memory.available, ram_bytes(), None)
    ]


def ram_bytes() -> int:
    """The machine's RAM, or the container's share of it (cgroup v2)."""
    total = psutil.virtual_memory().total
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return total


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpus(count: int) -> tuple[DeviceProfile, ...]:
    """The CPU as so many devices, each with its share of the RAM."""
    wide = "avx512_bf16"
    capability = wide if wide in _cpuinfo("flags").split() else None
    name, memory = _cpu_name(), ram_bytes() // count
    return tuple(
        DeviceProfile(kind="cpu", index=index, name=name, memory_bytes=memory, compute_capability=capability)
        for index in range(count)
    )


def _interfaces() -> tuple[InterfaceProfile, ...]:
    """Those that are up, with their first IPv4 address."""
    states = psutil.net_if_stats()
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        address = next((one.address for one in addresses if one.family == socket.AF_INET), None)
        if address and name in states and states[name].isup:
            speed = states[name].speed * 10**6  # psutil counts in Mbit/s
            found.append(InterfaceProfile(name=name, address=address, bits_per_s=speed or None))
    return tuple(found)


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """What Linux says of the first core; empty where it says nothing."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""


def _versions() -> dict[str, str]:
    """Versions of what is installed, by package name; NCCL's is that of the wheel torch came with."""
    found = {name: version for name in PACKAGES if (version := _version(name))}
    nccl = next((version for wheel in _NCCL_WHEELS if (version := _version(wheel))), None)
    return found | ({"nccl": nccl} if nccl else {})


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
