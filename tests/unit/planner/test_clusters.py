"""Built-in hardware by name."""

import pytest

from portal.planner import clusters
from portal.planner.hardware import GIB
from workers.contract.errors import Refused


@pytest.mark.parametrize(
    ("name", "nodes", "shape", "fabric"),
    [
        ("a100-80", 1, (1, 1), None),
        ("8xh100-80", 1, (1, 8), None),
        ("2x8-a100-80-25gbe", 1, (2, 8), "25gbe"),
        ("2x8-a100-80-25gbe", 2, (2, 8), "25gbe"),
        ("4x8-h100-80-ib-400", 1, (4, 8), "ib-400"),
        ("8x6000-ada", 1, (1, 8), None),
        ("2X8-6000-ADA-roce-100", 1, (2, 8), "roce-100"),
        ("v100-16", 1, (1, 1), None),
        ("8xh100-80-ib-8x400", 128, (128, 8), "ib-8x400"),
        ("a100-80", 4, (4, 1), "ib-200"),
        ("rtx-4090", 2, (2, 1), "25gbe"),
    ],
)
def test_a_name_says_nodes_devices_and_fabric(
    name: str, nodes: int, shape: tuple[int, int], fabric: str | None
) -> None:
    fleet = clusters.fleet(name, nodes)
    group = fleet.groups[0]
    assert (group.nodes, group.devices) == shape
    assert (fleet.fabric.name if fleet.fabric else None) == fabric


def test_every_name_listed_is_one() -> None:
    for name in clusters.names():
        assert clusters.fleet(name).name == name


def test_a_built_in_node_has_host_memory_to_offload_to() -> None:
    device = clusters.fleet("a100-80").groups[0].device
    assert clusters.fleet("8xa100-80").groups[0].ram_bytes == 16 * device.memory_bytes
    assert clusters.fleet("t4").groups[0].ram_bytes == 64 * GIB


def test_an_assumed_fabric_shows_in_the_fleets_name() -> None:
    assert clusters.fleet("8xa100-80", 2).name == "2x8-a100-80-ib-200"


@pytest.mark.parametrize(
    ("name", "nodes", "field", "says"),
    [
        ("h100", 1, "hardware", "h100-80"),
        ("rtx-4091", 1, "hardware", "rtx-4090"),
        ("2x8-a100-80-26gbe", 1, "hardware", "2x8-a100-80-25gbe"),
        ("", 1, "hardware", "nodes x devices and a fabric"),
        ("100xa100-80", 1, "hardware", "use 1 to 64"),
        ("0xa100-80", 1, "hardware", "use 1 to 64"),
        ("0x8-a100-80", 1, "hardware", "use 1 to 100,000"),
        ("999999x8-a100-80", 1, "hardware", "use 1 to 100,000"),
        ("a100-80", 100_001, "nodes", "use 1 to 100,000"),
        ("2x8-a100-80", 3, "nodes", "2 nodes already"),
    ],
)
def test_what_is_no_hardware_is_refused_with_what_would_be(name: str, nodes: int, field: str, says: str) -> None:
    with pytest.raises(Refused) as refused:
        clusters.fleet(name, nodes)
    assert [error.field for error in refused.value.errors] == [field]
    assert says in str(refused.value)
