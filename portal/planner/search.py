"""Every sensible way to do a workload on a fleet, each with its bytes and seconds.

Device counts, then tensor × pipeline × data degrees, then ZeRO and offload; for each of these the largest micro batch
that fits, without recomputing activations if it can. Knows nothing of ranking, nor of what to say about a way.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from portal.planner import memory, throughput
from portal.planner.answer import Calibrated, Memory, Speed
from portal.planner.calibration import Calibration, apply, apply_speed, method_key
from portal.planner.hardware import GIB, DeviceSpec, Fleet
from portal.planner.placement import Spot, impossible, spots
from portal.planner.request import Fixed, Method, Number, Quantized, Workload
from portal.planner.rules import Rules
from portal.planner.shapes import ModelShape

Stage = Literal[0, 1, 2, 3]
Offload = tuple[bool, bool]
"""(optimizer, parameters) to host memory."""

MOST_PIPELINE = 16
MOST_MICRO_BATCH = 64
QUANTIZED: dict[str, tuple[Quantized, ...]] = {
    "infer": ("none", "fp8", "int8", "awq", "nf4"),  # GPTQ takes what AWQ takes
    "lora": ("none",),
    "qlora": ("nf4",),
    "full": ("none",),
}
Choice = TypeVar("Choice")
PREFERENCE = {"fits": 0, "tight": 1, "exceeds": 2}


@dataclass(frozen=True, eq=False)
class Way:
    """A method at a place, with what it takes."""

    method: Method
    spot: Spot
    memory: Memory
    speed: Speed
    calibrated: Calibrated | None

    @property
    def device(self) -> DeviceSpec:
        return self.spot.group.device


@dataclass
class Search:
    """One search. `refused` collects why ways were not considered; `considered` counts those that were computed."""

    shape: ModelShape
    workload: Workload
    fixed: Fixed
    fleet: Fleet
    rules: Rules
    calibration: Calibration | None = None
    refused: dict[str, None] = field(default_factory=dict)
    uneven: set[int] = field(default_factory=set)
    """Numbers of replicas that can't share the global batch."""
    considered: int = 0

    def __post_init__(self) -> None:
        """What a checkpoint has quantized is served as it lies."""
        if self.shape.stored and self.workload.goal == "infer" and self.fixed.quantization in (None, "none"):
            self.fixed = self.fixed.model_copy(update={"quantization": self.shape.stored.layout})

    def other(self, **changes: Any) -> "Search":
        """A search with other arguments that starts anew."""
        return replace(self, **changes, refused={}, uneven=set(), considered=0)

    def ways(self) -> list[Way]:
        """The best way of each layout; those that exceed a device are there too, as the nearest misses."""
        found: list[Way] = []
        for devices in self._counts():
            places, refusals = spots(self.fleet, devices)
            self.refused.update(dict.fromkeys(refusals))
            seen: set[str] = set()
            for spot in places:
                if spot.group.device.name not in seen:
                    seen.add(spot.group.device.name)
                    found += self._at(spot, devices)
        if self.uneven and not found:
            counts = ", ".join(str(count) for count in sorted(self.uneven))
            self.refused[
                f"A global batch of {self.workload.batch} can't be shared evenly by {counts} data-parallel replicas; "
                "use a multiple."
            ] = None
        return found

    def judge(self, method: Method, spot: Spot) -> Way:
        """The bytes and seconds of one method at one place."""
        self.considered += 1
        device = spot.group.device
        taken = memory.estimate(self.shape, self.workload, method, device, self.rules)
        speed = throughput.estimate(
            self.shape, self.workload, method, spot.group, spot.nodes, self.fleet.fabric, self.rules
        )
        key = method_key(self.workload.kind, method, self.workload.preference)
        factor = self.calibration.factor(device.name, key) if self.calibration else None
        if factor is not None:
            taken, speed = apply(taken, factor), apply_speed(speed, factor)
        return Way(method, spot, taken, speed, factor)

    def _counts(self) -> Iterator[int]:
        """Device counts worth a look: 1, 2, 4 … in a node, then whole nodes, then all there is."""
        fixed = (self.fixed.tensor_parallel, self.fixed.pipeline_parallel, self.fixed.data_parallel)
        if all(fixed):
            yield (fixed[0] or 1) * (fixed[1] or 1) * (fixed[2] or 1)
            return
        counts = {1}
        for group in self.fleet.groups:
            counts.update(_doublings(group.devices))
            counts.update(nodes * group.devices for nodes in _doublings(group.nodes))
        yield from sorted(counts)

    def _at(self, spot: Spot, devices: int) -> Iterator[Way]:
        for tensor, pipeline, data in self._degrees(spot, devices):
            for quantization in self._quantizations(spot.group.device):
                yield from self._layout(spot, tensor, pipeline, data, quantization)

    def _degrees(self, spot: Spot, devices: int) -> Iterator[tuple[int, int, int]]:
        """(tensor, pipeline, data); a tensor group stays within a node, whose links are the fast ones."""
        for tensor in _chosen(self.fixed.tensor_parallel, _doublings(spot.devices_per_node)):
            stages = self._pipelines(spot, tensor)
            for pipeline in _chosen(self.fixed.pipeline_parallel, stages):
                data, rest = divmod(devices, tensor * pipeline)
                if rest or data < 1 or self.fixed.data_parallel not in (None, data):
                    continue
                if self._too_many(data):
                    continue
                yield tensor, pipeline, data

    def _pipelines(self, spot: Spot, tensor: int) -> tuple[int, ...]:
        """Stages worth a look. Adapters have their own copies or ZeRO 3's shards; a served model goes over several
        nodes only when it fills one."""
        if self.workload.goal == "full":
            return _doublings(min(MOST_PIPELINE, self.shape.depth))
        if self.workload.goal == "infer" and spot.nodes > 1 and tensor == spot.devices_per_node:
            return _doublings(min(MOST_PIPELINE, spot.nodes, self.shape.depth))
        return (1,)

    def _too_many(self, data: int) -> bool:
        if self.workload.goal == "infer":
            return data > self.workload.concurrency
        if self.workload.batch % data:
            self.uneven.add(data)
            return True
        return False

    def _quantizations(self, device: DeviceSpec) -> Iterable[Quantized]:
        if self.fixed.quantization is not None:
            return (self.fixed.quantization,)
        return tuple(q for q in QUANTIZED[self.workload.goal] if q != "fp8" or device.has("fp8"))

    def _layout(self, spot: Spot, tensor: int, pipeline: int, data: int, quantization: Quantized) -> Iterator[Way]:
        """The best way of each ZeRO stage; offload and 8-bit optimizers only where nothing fits without them."""
        base = Method(
            precision=self._precision(spot.group.device),
            quantization=quantization,
            tensor=tensor,
            pipeline=pipeline,
            data=data,
            attention=self.fixed.attention or "sdpa",
            kv_cache=self.fixed.kv_cache or self._precision(spot.group.device),
            optimizer=self.fixed.optimizer or "adamw",
        )
        if self.workload.goal == "infer":
            yield from self._if_possible(base, spot)
            return
        plain = [
            way for stage in self._stages(pipeline, data) for way in self._trained(base, spot, stage, (False, False))
        ]
        yield from plain
        if any(way.memory.verdict == "fits" for way in plain):
            return
        if self.workload.goal == "full" and self.fixed.optimizer is None and spot.group.device.kind == "cuda":
            eight = base.model_copy(update={"optimizer": "paged_adamw_8bit"})
            yield from self._trained(eight, spot, 0 if data == 1 else 2 if pipeline == 1 else 1, (False, False))
        if pipeline == 1:
            for stage, offload in ((2, (True, False)), (3, (True, False)), (3, (True, True))):
                if self.fixed.zero_stage in (None, stage):
                    yield from self._trained(base, spot, stage, offload)  # type: ignore[arg-type]  # 2 and 3 are stages

    def _stages(self, pipeline: int, data: int) -> tuple[Stage, ...]:
        if self.fixed.zero_stage is not None:
            return (self.fixed.zero_stage,)
        if data == 1:
            return (0,)
        return (0, 1) if pipeline > 1 else (0, 1, 2, 3)

    def _trained(self, base: Method, spot: Spot, stage: Stage, offload: Offload) -> Iterator[Way]:
        """The largest micro batch that fits; recomputing activations only where not even one sequence fits else."""
        asked = (self.fixed.offload_optimizer, self.fixed.offload_parameters)
        if any(want is not None and want != does for want, does in zip(asked, offload, strict=True)):
            if True in offload:
                return
            offload = (bool(asked[0]), bool(asked[1]))
        method = base.model_copy(
            update={"zero_stage": stage, "offload_optimizer": offload[0], "offload_parameters": offload[1]}
        )
        best: Way | None = None
        for recompute in _chosen(self.fixed.gradient_checkpointing, (False, True)):
            best = _better(best, self._largest_batch(method.model_copy(update={"checkpointing": recompute}), spot))
            if best is not None and best.memory.verdict == "fits":
                break
        if best is not None:
            yield best

    def _largest_batch(self, method: Method, spot: Spot) -> Way | None:
        """Doubles the micro batch while it fits; the smallest one where none does."""
        share = self.workload.batch // method.data
        best: Way | None = None
        for micro in _chosen(self.fixed.micro_batch, _doublings(min(share, MOST_MICRO_BATCH))):
            if share % micro:
                continue
            way = next(
                self._if_possible(
                    method.model_copy(update={"micro_batch": micro, "accumulation": share // micro}), spot
                ),
                None,
            )
            if way is None or (best is not None and way.memory.verdict != "fits"):
                break
            best = way
        return best

    def _if_possible(self, method: Method, spot: Spot) -> Iterator[Way]:
        why = impossible(self.shape, self.workload, method, spot.group.device)
        if why is not None:
            self.refused[why] = None
            return
        way = self.judge(method, spot)
        ram = spot.group.ram_bytes
        if ram and way.memory.host_bytes > ram:
            self.refused[
                f"Offloading takes {way.memory.host_bytes / GIB:,.0f} GiB of host memory, and a node of "
                f"{spot.group.name} has {ram / GIB:,.0f} GiB."
            ] = None
            return
        yield way

    def _precision(self, device: DeviceSpec) -> Number:
        """bf16 where the device has it, else fp16; fp32 on a CPU, whose bf16 is many times slower."""
        if self.fixed.precision is not None:
            return self.fixed.precision
        if device.kind == "cpu":
            return "fp32"
        return "bf16" if device.has("bf16") else "fp16"


def _better(one: Way | None, other: Way | None) -> Way | None:
    """The one with the better verdict, else the one that takes less."""
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda way: (PREFERENCE[way.memory.verdict], way.memory.expected))


def _doublings(most: int) -> tuple[int, ...]:
    """1, 2, 4 … and `most` itself."""
    powers = tuple(2**power for power in range(most.bit_length()) if 2**power <= most)
    return powers if most < 1 or powers[-1] == most else (*powers, most)


def _chosen(fixed: Choice | None, choices: Iterable[Choice]) -> Iterable[Choice]:
    return choices if fixed is None else (fixed,)
