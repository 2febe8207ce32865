"""The device catalogue: sane figures, and a driver's names recognised. Knows no models."""

import pytest

from portal.planner.devices import DEVICES, FABRICS, match, of_cpu, of_gpu
from portal.planner.hardware import GIB

MIB = 2**20


@pytest.mark.parametrize(
    ("reported", "mib", "expected"),
    [
        ("NVIDIA A100-SXM4-40GB", 40_536, "a100-40"),
        ("NVIDIA A100-SXM4-80GB", 81_920, "a100-80"),
        ("NVIDIA A100 80GB PCIe", 81_251, "a100-80"),
        ("NVIDIA H100 80GB HBM3", 81_559, "h100-80"),
        ("NVIDIA H100 PCIe", 81_559, "h100-pcie"),
        ("NVIDIA H200", 143_771, "h200"),
        ("NVIDIA B200", 183_359, "b200"),
        ("NVIDIA L4", 23_034, "l4"),
        ("NVIDIA L40S", 46_068, "l40s"),
        ("NVIDIA A10", 23_028, "a10"),
        ("Tesla T4", 15_109, "t4"),
        ("Tesla V100-SXM2-32GB", 32_510, "v100"),
        ("Tesla V100-SXM2-16GB", 16_160, "v100-16"),
        ("NVIDIA GeForce RTX 3090", 24_268, "rtx-3090"),
        ("NVIDIA GeForce RTX 4090", 24_564, "rtx-4090"),
        ("NVIDIA GeForce RTX 5090", 32_607, "rtx-5090"),
        ("NVIDIA RTX 6000 Ada Generation", 46_068, "6000-ada"),
        ("AMD Instinct MI300X OAM", 196_592, "mi300x"),
    ],
)
def test_a_drivers_name_is_recognised_with_the_nodes_own_memory(reported: str, mib: int, expected: str) -> None:
    device = match(reported, mib * MIB)
    assert device is not None
    assert (device.name, device.memory_bytes) == (expected, mib * MIB)


@pytest.mark.parametrize(
    ("reported", "mib"),
    [
        ("NVIDIA A100-SXM4-80GB", 9_728),  # a MIG slice
        ("NVIDIA H100 NVL", 95_830),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16_376),
        ("NVIDIA GeForce RTX 3090 Ti", 24_564),
        ("NVIDIA L40", 46_068),
        ("NVIDIA A10G", 23_028),
        ("NVIDIA RTX A6000", 49_140),
        ("", 0),
    ],
)
def test_a_device_that_is_not_listed_is_not_mistaken_for_one(reported: str, mib: int) -> None:
    assert match(reported, mib * MIB) is None


def test_a_pcie_card_has_the_link_of_its_slot() -> None:
    card, module = match("NVIDIA A100 80GB PCIe", 81_251 * MIB), DEVICES["a100-80"]
    assert card is not None
    assert card.link == "pcie"
    assert card.link_bandwidth < module.link_bandwidth


def test_an_unlisted_gpu_gets_a_modest_guess_that_says_so() -> None:
    guess = of_gpu("NVIDIA RTX A6000", 48 * GIB, 8.6)
    assert guess.memory_bytes == 48 * GIB
    assert guess.has("bf16")
    assert not guess.has("fp8")
    assert "Not in the catalogue" in guess.source
    assert not of_gpu("Quadro RTX 5000", 16 * GIB, 7.5).has("bf16")


def test_a_cpus_figures_grow_with_its_cores_and_ram() -> None:
    small, large = of_cpu("Xeon", 2, 24 * GIB), of_cpu("Xeon", 64, 256 * GIB)
    assert large.flops["fp32"] == 32 * small.flops["fp32"]
    assert small.bandwidth < large.bandwidth <= 200e9
    assert small.memory_bytes == 24 * GIB
    assert not small.has("fp16")


def test_every_device_has_its_sources_a_price_and_types_that_its_generation_computes() -> None:
    for device in DEVICES.values():
        assert "price" in device.source
        assert device.price_per_hour
        assert device.has("fp32")
        if device.kind == "cuda":
            assert device.capability is not None
            assert device.has("fp8") == (device.capability >= 8.9)
            assert device.has("bf16") == (device.capability >= 8.0)
            assert device.bandwidth / device.link_bandwidth > 2


def test_fabric_names_carry_the_line_rate() -> None:
    assert FABRICS["25gbe"].bandwidth == 3.125e9
    assert FABRICS["ib-400"].bandwidth == 50e9
