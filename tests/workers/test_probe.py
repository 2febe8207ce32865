"""A node's profile: from NVML where there is one, else the CPU."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from workers.contract.events import NodeProfile
from workers.contract.order import Device
from workers.disk import read_bandwidth
from workers.nvml import Nvml, open_nvml
from workers.probe import probe, sample_devices
from workers.sampling import Sampler
from workers.settings import SettingsError

GIB = 2**30


class FakeNvml:
    """Three H100s as pynvml tells of them: 0 and 1 share NVLink, 2 sits elsewhere and has no power meter."""

    class NVMLError(Exception):
        pass

    NVML_P2P_CAPS_INDEX_NVLINK = 2
    NVML_P2P_STATUS_OK = 0

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return 3

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}{handle}"

    def nvmlDeviceGetName(self, handle):
        return b"NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=80 * GIB, used=(handle + 1) * GIB)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._unless_unmetered(handle, 700_000)

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._unless_unmetered(handle, 123_500)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=97, memory=40)

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return (9, 0)

    def nvmlSystemGetDriverVersion(self):
        return "570.10"

    def nvmlSystemGetCudaDriverVersion(self):
        return 12080

    def nvmlDeviceGetP2PStatus(self, a, b, kind):
        return 0 if {a, b} == {0, 1} else 3

    def nvmlDeviceGetNvLinkState(self, handle, link):
        if link >= 18 or handle == 2:
            raise self.NVMLError
        return 1

    def nvmlDeviceGetTopologyCommonAncestor(self, a, b):
        return 50 if 0 in (a, b) else 30

    NVML_CLOCK_SM = 1

    @staticmethod
    def process(pid, used):
        return SimpleNamespace(pid=pid, usedGpuMemory=used)

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle):
        raise self.NVMLError("Function Not Found")  # an older driver

    def nvmlDeviceGetComputeRunningProcesses_v2(self, handle):
        return [self.process(11, 2 * GIB), self.process(12, None)]

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle):
        return [self.process(11, GIB), self.process(13, 3 * GIB)]

    def nvmlSystemGetProcessName(self, pid):
        return b"/usr/bin/python3" if pid == 11 else self._unless_unmetered(2, "")

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return 345

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return 1980

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        if handle == 2:
            raise self.NVMLError("Function Not Found")
        return 0x01 if handle == 0 else 0x41

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return 0x84

    def _unless_unmetered(self, handle, value):
        if handle == 2:
            raise self.NVMLError("Not Supported")
        return value


def gpus(**environment: str) -> Nvml:
    return Nvml(FakeNvml(), environment)


def test_a_cpu_may_be_several_devices_that_share_its_ram(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    open_nvml.cache_clear()
    profile = profile_of(tmp_path, LIFTOFF_CPU_DEVICES="2")
    open_nvml.cache_clear()
    assert [(device.kind, device.index) for device in profile.devices] == [("cpu", 0), ("cpu", 1)]
    assert {device.memory_bytes for device in profile.devices} == {profile.ram_bytes // 2}
    with pytest.raises(SettingsError, match=r"LIFTOFF_CPU_DEVICES: 'two' is no whole number from 1 to 64\."):
        profile_of(tmp_path, LIFTOFF_CPU_DEVICES="two")


def profile_of(tmp_path, nvml=None, **environment) -> NodeProfile:
    return probe("n1", address="10.0.0.5", home=tmp_path, environment=environment, nvml=nvml)


def test_a_machine_without_gpus_is_one_cpu(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    open_nvml.cache_clear()
    profile = profile_of(tmp_path)
    open_nvml.cache_clear()
    (device,) = profile.devices
    assert (device.kind, device.index) == ("cpu", 0)
    assert device.name
    cpuinfo = Path("/proc/cpuinfo")
    says = cpuinfo.read_text() if cpuinfo.exists() else ""
    assert (device.compute_capability == "avx512_bf16") == ("avx512_bf16" in says)
    assert device.memory_bytes == profile.ram_bytes > GIB / 4
    assert profile.cores >= 1
    assert profile.disk_free_bytes > 0
    assert profile.disk_read_bytes_per_s > 0
    assert profile.cuda is None
    assert "pydantic" not in profile.versions
    assert NodeProfile.model_validate_json(profile.model_dump_json()) == profile


def test_gpus_are_found_with_their_limits_and_links(tmp_path):
    profile = profile_of(tmp_path, gpus())
    assert [device.index for device in profile.devices] == [0, 1, 2]
    first, _, third = profile.devices
    assert first.name == "NVIDIA H100 80GB HBM3"
    assert first.memory_bytes == 80 * GIB
    assert first.power_limit_w == 700
    assert first.compute_capability == "9.0"
    assert third.power_limit_w is None
    assert (profile.driver, profile.cuda) == ("570.10", "12.8")
    assert [(link.a, link.b, link.kind, link.detail) for link in profile.links] == [
        (0, 1, "nvlink", "18 links"),
        (0, 2, "host", "across NUMA nodes"),
        (1, 2, "pcie", "one PCIe host bridge"),
    ]


@pytest.mark.parametrize(("visible", "indices"), [("1,2", [1, 2]), ("GPU-11", [1]), ("", []), ("-1", [])])
def test_gpus_hidden_from_the_worker_are_not_offered(visible, indices):
    assert [device.index for device in gpus(CUDA_VISIBLE_DEVICES=visible).devices()] == indices


def test_a_run_is_charged_with_its_own_gpus_only():
    import os

    sampler = Sampler(os.getpid(), (Device(kind="cuda", index=1), Device(kind="cuda", index=2)), gpus())
    values = sampler.sample().values
    assert values["device1_util_percent"] == 97
    assert values["device1_memory_bytes"] == 2 * GIB
    assert values["device1_power_w"] == 123.5
    assert "device2_power_w" not in values
    assert not any(name.startswith("device0") for name in values)


def test_devices_are_sampled():
    assert [sample.power_w for sample in sample_devices(gpus())] == [123.5, 123.5, None]
    (cpu,) = sample_devices(Nvml(FakeNvml(), {"CUDA_VISIBLE_DEVICES": ""}))
    assert 0 <= cpu.util_percent <= 100
    assert cpu.memory_bytes > 0


def test_who_holds_a_gpu_and_what_slows_it_is_read():
    held = [(holder.pid, holder.bytes, holder.name) for holder in gpus().holders(0)]
    assert held == [(13, 3 * GIB, ""), (11, 2 * GIB, "python3"), (12, None, "")]
    idle, hot, unmetered = (gpus().clocks(index) for index in range(3))
    assert (idle.now_mhz, idle.max_mhz, idle.slowed_by) == (345, 1980, ())
    assert hot.slowed_by == ("heat (hardware thermal slowdown)",)
    assert len(unmetered.slowed_by) == 2  # told by the reasons' older name


def test_labels(tmp_path):
    assert profile_of(tmp_path, LIFTOFF_NODE_LABELS="zone=a, disk = nvme").labels == {"zone": "a", "disk": "nvme"}
    with pytest.raises(SettingsError, match="LIFTOFF_NODE_LABELS: 'fast'"):
        profile_of(tmp_path, LIFTOFF_NODE_LABELS="fast")


def test_the_disk_is_measured_once_a_day(tmp_path):
    assert read_bandwidth(tmp_path) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["disk_read.json"]
    kept = json.loads((tmp_path / "disk_read.json").read_text())
    (tmp_path / "disk_read.json").write_text(json.dumps({**kept, "bytes_per_s": 123.0}))
    assert read_bandwidth(tmp_path) == 123.0
    (tmp_path / "disk_read.json").write_text(json.dumps({"at": kept["at"] - 100_000, "bytes_per_s": 123.0}))
    assert read_bandwidth(tmp_path) != 123.0


def test_a_folder_that_cannot_be_written_has_no_bandwidth(tmp_path):
    (tmp_path / "file").write_text("")
    assert read_bandwidth(tmp_path / "file") is None
