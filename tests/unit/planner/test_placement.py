"""Places on a fleet, and combinations that can't work."""

import pytest

from portal.planner import clusters, models
from portal.planner.devices import DEVICES, FABRICS
from portal.planner.hardware import Fleet, NodeGroup
from portal.planner.placement import impossible, spots
from portal.planner.request import Method, Workload


def group(device: str, nodes: int, devices: int, names: tuple[str, ...] = ()) -> NodeGroup:
    return NodeGroup(f"{devices}x{device}", DEVICES[device], nodes, devices, names=names)


MIXED = Fleet("fleet", (group("h100-80", 2, 8), group("rtx-4090", 3, 4)), FABRICS["25gbe"])


def test_one_node_where_it_fits_and_the_fewest_left_over_first() -> None:
    found, refused = spots(MIXED, 4)
    assert [(spot.group.device.name, spot.nodes, spot.left_over) for spot in found] == [
        ("rtx-4090", 1, 0),
        ("h100-80", 1, 4),
    ]
    assert not refused


def test_whole_nodes_joined_by_the_fabric() -> None:
    found, refused = spots(MIXED, 16)
    assert [(spot.group.device.name, spot.nodes, spot.devices_per_node) for spot in found] == [("h100-80", 2, 8)]
    assert "Ethernet 25 Gbps" in found[0].words
    assert len(refused) == 1
    assert "16 devices don't fit one 4xrtx-4090 node, which has 4" in refused[0]
    assert "12" in refused[0]


def test_nodes_share_evenly() -> None:
    found, _ = spots(Fleet("f", (group("a100-80", 4, 8),), FABRICS["ib-200"]), 12)
    assert (found[0].nodes, found[0].devices_per_node, found[0].left_over) == (2, 6, 4)
    _, refused = spots(Fleet("f", (group("a100-80", 4, 8),), FABRICS["ib-200"]), 31)
    assert "can't be shared evenly" in refused[0]


def test_nodes_that_nothing_joins_are_refused_in_words() -> None:
    found, refused = spots(Fleet("f", (group("a100-80", 4, 8),)), 16)
    assert not found
    assert "nothing joins its nodes" in refused[0]


def test_real_nodes_are_named() -> None:
    names = tuple(f"gpu-{number}" for number in range(1, 7))
    found, _ = spots(Fleet("fleet", (group("a100-80", 6, 8, names),)), 2)
    assert "gpu-1, gpu-2, gpu-3 or 3 more" in found[0].words
    assert "2 of its 8" in found[0].words


def test_a_thousand_nodes_are_one_group() -> None:
    found, refused = spots(clusters.fleet("1000x8-a100-80-ib-200"), 8000)
    assert (found[0].nodes, found[0].devices_per_node) == (1000, 8)
    assert not refused


def test_an_empty_fleet_says_so() -> None:
    assert spots(Fleet("fleet", ()), 1) == ([], ["fleet has no devices."])


TRAIN = Workload(goal="full", context=1024, batch=8)
LORA = Workload(goal="lora", context=1024, batch=8)
QLORA = Workload(goal="qlora", context=1024, batch=8)
SERVE = Workload(goal="infer", context=1024)
ONE = Method(accumulation=8)
NF4 = Method(accumulation=8, quantization="nf4")


@pytest.mark.parametrize(
    ("model", "workload", "method", "device", "says"),
    [
        ("smollm2-135m", SERVE, Method(tensor=2), "a100-80", "use 1, 3"),
        ("llama-3-8b", SERVE, Method(tensor=3), "a100-80", "use 1, 2, 4, 8, 16, 32"),
        ("llama-2-7b", TRAIN, ONE.model_copy(update={"pipeline": 33}), "a100-80", "at most 32"),
        ("llama-2-7b", TRAIN, ONE.model_copy(update={"pipeline": 2, "zero_stage": 2}), "a100-80", "use ZeRO 1"),
        ("llama-2-7b", TRAIN, ONE.model_copy(update={"pipeline": 2, "zero_stage": 3}), "a100-80", "use ZeRO 1"),
        ("llama-2-7b", TRAIN, ONE.model_copy(update={"offload_optimizer": True}), "a100-80", "ZeRO 1 or more"),
        (
            "llama-2-7b",
            TRAIN,
            ONE.model_copy(update={"zero_stage": 2, "offload_parameters": True}),
            "a100-80",
            "use ZeRO 3",
        ),
        (
            "llama-2-7b",
            QLORA,
            NF4.model_copy(update={"zero_stage": 3, "offload_parameters": True}),
            "a100-80",
            "no parameter offload",
        ),
        (
            "llama-2-7b",
            QLORA,
            Method(accumulation=8, quantization="int8", zero_stage=3),
            "a100-80",
            "use nf4, or ZeRO 2",
        ),
        ("llama-2-7b", QLORA, NF4.model_copy(update={"tensor": 2}), "a100-80", "data parallelism"),
        ("llama-2-7b", QLORA, ONE, "a100-80", "use nf4 or int8"),
        ("llama-2-7b", QLORA, Method(accumulation=8, quantization="awq"), "a100-80", "train on nf4 or int8"),
        ("llama-2-7b", LORA, NF4, "a100-80", "the goal qlora"),
        ("llama-2-7b", TRAIN, NF4, "a100-80", "the goal qlora"),
        ("llama-2-7b", LORA, ONE, "t4", "use fp16 or fp32"),
        ("llama-2-7b", LORA, ONE, "v100", "use fp16 or fp32"),
        ("llama-2-7b", LORA, ONE.model_copy(update={"precision": "fp16"}), "cpu", "use fp32"),
        ("llama-2-7b", SERVE, Method(quantization="fp8"), "a100-80", "use int8"),
        ("llama-2-7b", SERVE, Method(precision="fp16", quantization="awq"), "v100", "use nf4 or GPTQ"),
        ("llama-2-7b", SERVE, Method(precision="fp16", quantization="int8"), "v100", "use nf4"),
        ("llama-2-7b", SERVE, Method(precision="fp32", quantization="awq"), "cpu", "need a GPU"),
        ("llama-2-7b", SERVE, Method(precision="fp16", attention="flash"), "t4", "use sdpa"),
        ("llama-2-7b", SERVE, Method(precision="fp32", attention="flash"), "a100-80", "or sdpa"),
        ("llama-2-7b", SERVE, Method(precision="fp32", attention="flash"), "cpu", "use sdpa"),
        ("llama-2-7b", LORA, Method(precision="fp32", accumulation=8, optimizer="adamw_8bit"), "cpu", "use adamw"),
        ("llama-2-7b", LORA, Method(micro_batch=3), "a100-80", "multiple of 3"),
        ("llama-2-7b", LORA, Method(micro_batch=2), "a100-80", "accumulate 4"),
        ("llama-2-7b", SERVE.model_copy(update={"context": 5000}), Method(), "a100-80", "at most 4,096"),
        ("bert-base", SERVE.model_copy(update={"context": 128}), Method(), "a100-80", "encoder"),
        ("llama-2-7b", LORA.model_copy(update={"lora_targets": "c_attn"}), ONE, "a100-80", "q_proj"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(
    model: str, workload: Workload, method: Method, device: str, says: str
) -> None:
    why = impossible(models.shape(model), workload, method, DEVICES[device])
    assert why is not None
    assert says in why
    assert why.endswith(".")


@pytest.mark.parametrize(
    ("model", "workload", "method", "device"),
    [
        ("llama-3-8b", SERVE, Method(tensor=16), "a100-80"),
        ("llama-2-7b", TRAIN, Method(accumulation=8, pipeline=4, zero_stage=1), "a100-80"),
        ("llama-2-7b", TRAIN, Method(data=2, accumulation=4, zero_stage=3, offload_parameters=True), "a100-80"),
        ("llama-2-7b", QLORA, Method(data=2, accumulation=4, zero_stage=3, quantization="nf4"), "a100-80"),
        ("llama-2-7b", QLORA, Method(precision="fp16", accumulation=8, quantization="nf4"), "t4"),
        ("llama-2-7b", SERVE, Method(quantization="fp8"), "h100-80"),
        ("llama-2-7b", SERVE, Method(attention="flash"), "mi300x"),
        ("smollm2-135m", LORA, Method(precision="fp32", accumulation=8), "cpu"),
        ("smollm2-135m", SERVE, Method(precision="fp32", quantization="gptq"), "cpu"),
        ("mixtral-8x7b", SERVE, Method(tensor=8), "a100-80"),
        ("llama-2-7b", LORA.model_copy(update={"lora_targets": "q_proj, v_proj"}), ONE, "a100-80"),
    ],
)
def test_what_works_is_not_refused(model: str, workload: Workload, method: Method, device: str) -> None:
    assert impossible(models.shape(model), workload, method, DEVICES[device]) is None
