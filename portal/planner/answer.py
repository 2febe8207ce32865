"""What the planner says: bytes line by line, seconds part by part, ranked plans and the answers to the inverse
questions. Plain data that goes out as JSON as it is. Bytes are per device; seconds are of one step or token."""

from typing import Literal

from pydantic import Field

from portal.planner.request import Method
from workers.contract.base import Contract

Verdict = Literal["fits", "tight", "exceeds"]
LineName = Literal[
    "weights", "lora", "gradients", "optimizer", "activations", "logits", "kv_cache", "buffers", "context", "reserve"
]


class Line(Contract):
    """One part of a device's memory. `words`: the arithmetic, with its numbers."""

    name: LineName
    low: int
    expected: int
    high: int
    words: str


class Memory(Contract):
    """Bytes on the fullest device. `host_bytes`: RAM of a node that offloading takes."""

    lines: tuple[Line, ...]
    low: int
    expected: int
    high: int
    capacity: int
    """What the device has."""
    usable: int
    """Capacity less the rule that keeps some free; more than that is tight."""
    host_bytes: int = 0
    verdict: Verdict


class Share(Contract):
    """One part of a step's time."""

    name: Literal["compute", "memory", "communication", "bubble", "offload"]
    seconds: float
    words: str


class Speed(Contract):
    """Time of an optimizer step (training) or of one token of every running request (inference)."""

    step_s: float
    tokens_per_s: float
    """Over all devices: trained tokens, or generated tokens."""
    ttft_s: float | None = None
    """Inference: seconds to read the prompt of one request."""
    communication_share: float = 0.0
    """Of the step, 0 to 1."""
    cost_per_million_tokens: float | None = None
    """US dollars, at the devices' price."""
    total_s: float | None = None
    """Of the whole run, when the request says how many tokens it trains."""
    total_cost: float | None = None
    shares: tuple[Share, ...]


class Calibrated(Contract):
    """What earlier runs taught: factors on memory and time, and how wrong they were."""

    runs: int
    memory_factor: float
    speed_factor: float
    median_error: float
    words: str


class Plan(Contract):
    """One way to do it."""

    title: str
    """In a few words: 'QLoRA nf4 · ZeRO 2 · 2 × A100 80 GB'."""
    method: Method
    nodes: int
    devices_per_node: int
    placement: str
    """Which nodes, in words."""
    memory: Memory
    speed: Speed
    why: tuple[str, ...]
    """What the plan trades, a sentence each."""
    warnings: tuple[str, ...] = ()
    calibrated: Calibrated | None = None


class Largest(Contract):
    """An inverse question and its answer. `value` None: nothing would do."""

    question: Literal["context", "micro_batch", "concurrency", "hardware"]
    value: int | str | None
    words: str


class PlanAnswer(Contract):
    """`plans` best first. When nothing fits, the nearest misses, and `instead` says what would change that."""

    verdict: Verdict
    words: str
    """The answer in one sentence."""
    plans: tuple[Plan, ...]
    largest: tuple[Largest, ...] = ()
    instead: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    """Why whole groups of ways were not considered, a sentence each."""
    model: str = ""
    hardware: str = ""
    parameters: int = 0
    considered: int = Field(0, description="Ways that were computed.")
