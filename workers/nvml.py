"""NVIDIA devices through NVML: what they are, how they are linked, what they do now, who holds them.

A node without the library, the driver or a GPU has none, quietly. Doesn't know what devices are used for.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from workers.contract.events import DeviceProfile, LinkProfile

_MAX_NVLINKS = 18

# nvmlGpuTopologyLevel_t: how far up two devices' paths meet.
_PATHS = {
    0: "same board",
    10: "one PCIe switch",
    20: "several PCIe switches",
    30: "one PCIe host bridge",
    40: "one NUMA node",
    50: "across NUMA nodes",
}
_HOST_LEVEL = 40

# nvmlClocksEventReasons: why a clock is below what was asked for. Idle and a user's own setting are no trouble.
_SLOWED = {
    0x04: "its power limit (software power cap)",
    0x08: "hardware slowdown",
    0x20: "heat (software thermal slowdown)",
    0x40: "heat (hardware thermal slowdown)",
    0x80: "the power supply (hardware power brake)",
}


@dataclass(frozen=True)
class DeviceSample:
    """What a device does at this moment; None where it doesn't say."""

    index: int
    kind: str
    name: str
    util_percent: float | None
    memory_bytes: int | None
    memory_total_bytes: int | None
    power_w: float | None


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a device; `bytes` None where the driver doesn't say how much."""

    pid: int
    bytes: int | None
    name: str


@dataclass(frozen=True)
class Clocks:
    """A device's streaming multiprocessors now, in MHz, and in words what slows them; None where it doesn't say."""

    now_mhz: int | None
    max_mhz: int | None
    slowed_by: tuple[str, ...] | None


class Nvml:
    """The devices that this process may use (CUDA_VISIBLE_DEVICES), by their index in PCI order."""

    def __init__(self, library: Any, environment: Mapping[str, str]) -> None:
        """`library`: the pynvml module. Raises its NVMLError where there is no driver."""
        self._lib = library
        library.nvmlInit()
        handles = {index: library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())}
        self._handles = _visible(handles, environment.get("CUDA_VISIBLE_DEVICES"), library.nvmlDeviceGetUUID)

    @property
    def driver(self) -> str | None:
        version = self._ask(self._lib.nvmlSystemGetDriverVersion)
        return _text(version) if version else None

    @property
    def cuda(self) -> str | None:
        """Newest CUDA version the driver runs, e.g. '12.8'."""
        version = self._ask(self._lib.nvmlSystemGetCudaDriverVersion)
        return f"{version // 1000}.{version % 1000 // 10}" if version else None

    def devices(self) -> tuple[DeviceProfile, ...]:
        return tuple(self._profile(index, handle) for index, handle in self._handles.items())

    def links(self) -> tuple[LinkProfile, ...]:
        """One for each pair of devices."""
        indices = list(self._handles)
        return tuple(self._link(a, b) for at, a in enumerate(indices) for b in indices[at + 1 :])

    def sample(self) -> list[DeviceSample]:
        return [self._sample(index, handle) for index, handle in self._handles.items()]

    def holders(self, index: int) -> list[Holder]:
        """Every process with memory on the device, largest first. Process ids are the host's, also in a container."""
        held: dict[int, int | None] = {}
        for kind in ("Compute", "Graphics"):
            for process in self._processes(kind, self._handles[index]):
                known = held.get(process.pid) or 0
                held[process.pid] = max(known, process.usedGpuMemory or 0) or None
        holders = [Holder(pid, used, self._process_name(pid)) for pid, used in held.items()]
        return sorted(holders, key=lambda holder: -(holder.bytes or 0))

    def clocks(self, index: int) -> Clocks:
        handle, lib = self._handles[index], self._lib
        # Drivers before 535 know the reasons by their older name only.
        reasons = self._ask(lib.nvmlDeviceGetCurrentClocksEventReasons, handle)
        if reasons is None:
            reasons = self._ask(lib.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return Clocks(
            now_mhz=self._ask(lib.nvmlDeviceGetClockInfo, handle, lib.NVML_CLOCK_SM),
            max_mhz=self._ask(lib.nvmlDeviceGetMaxClockInfo, handle, lib.NVML_CLOCK_SM),
            slowed_by=None if reasons is None else tuple(why for bit, why in _SLOWED.items() if reasons & bit),
        )

    def _processes(self, kind: str, handle: Any) -> list[Any]:
        """The driver may be older than the library's newest question."""
        for version in ("_v3", "_v2"):
            question = getattr(self._lib, f"nvmlDeviceGet{kind}RunningProcesses{version}")
            if (answer := self._ask(question, handle)) is not None:
                return list(answer)
        return []

    def _process_name(self, pid: int) -> str:
        return _text(self._ask(self._lib.nvmlSystemGetProcessName, pid) or "").rsplit("/", 1)[-1]

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, or None where the device doesn't support the question (or is lost)."""
        try:
            return question(*arguments)
        except self._lib.NVMLError:
            return None

    def _profile(self, index: int, handle: Any) -> DeviceProfile:
        memory = self._ask(self._lib.nvmlDeviceGetMemoryInfo, handle)
        limit_mw = self._ask(self._lib.nvmlDeviceGetEnforcedPowerLimit, handle)
        capability = self._ask(self._lib.nvmlDeviceGetCudaComputeCapability, handle)
        return DeviceProfile(
            kind="cuda",
            index=index,
            name=_text(self._ask(self._lib.nvmlDeviceGetName, handle) or "NVIDIA GPU"),
            memory_bytes=int(memory.total) if memory else 0,
            uuid=_text(self._ask(self._lib.nvmlDeviceGetUUID, handle) or ""),
            power_limit_w=limit_mw / 1000 if limit_mw else None,
            compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        )

    def _sample(self, index: int, handle: Any) -> DeviceSample:
        use = self._ask(self._lib.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(self._lib.nvmlDeviceGetMemoryInfo, handle)
        power_mw = self._ask(self._lib.nvmlDeviceGetPowerUsage, handle)
        return DeviceSample(
            index=index,
            kind="cuda",
            name=_text(self._ask(self._lib.nvmlDeviceGetName, handle) or "NVIDIA GPU"),
            util_percent=float(use.gpu) if use else None,
            memory_bytes=int(memory.used) if memory else None,
            memory_total_bytes=int(memory.total) if memory else None,
            power_w=power_mw / 1000 if power_mw is not None else None,
        )

    def _link(self, a: int, b: int) -> LinkProfile:
        first, second = self._handles[a], self._handles[b]
        status = self._ask(self._lib.nvmlDeviceGetP2PStatus, first, second, self._lib.NVML_P2P_CAPS_INDEX_NVLINK)
        if status == self._lib.NVML_P2P_STATUS_OK:
            active = self._active_nvlinks(first)
            return LinkProfile(a=a, b=b, kind="nvlink", detail=f"{active} links" if active else "")
        level = self._ask(self._lib.nvmlDeviceGetTopologyCommonAncestor, first, second)
        kind = "pcie" if level is not None and level < _HOST_LEVEL else "host"
        return LinkProfile(a=a, b=b, kind=kind, detail=_PATHS.get(level, ""))

    def _active_nvlinks(self, handle: Any) -> int:
        states = (self._ask(self._lib.nvmlDeviceGetNvLinkState, handle, link) for link in range(_MAX_NVLINKS))
        return sum(1 for state in states if state == 1)


@cache
def open_nvml() -> Nvml | None:
    """This machine's NVML, opened once; None without it."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        return Nvml(pynvml, os.environ)
    except pynvml.NVMLError:
        return None


def _visible(handles: dict[int, Any], listed: str | None, uuid_of: Callable[[Any], Any]) -> dict[int, Any]:
    """The devices that CUDA_VISIBLE_DEVICES names by index or UUID; all when it is unset."""
    if listed is None:
        return handles
    names = {name.strip() for name in listed.split(",") if name.strip()}
    by_uuid = any(not name.lstrip("-").isdecimal() for name in names)
    return {
        index: handle
        for index, handle in handles.items()
        if str(index) in names or (by_uuid and any(_text(uuid_of(handle)).startswith(name) for name in names))
    }


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
