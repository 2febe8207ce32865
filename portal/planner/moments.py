"""The moments of a training step at which a device may hold most, and what it holds then.

Gradients grow while activations shrink, so they are never added up at their largest. Knows nothing of devices beyond
whether they are GPUs, nor of words.
"""

from dataclasses import dataclass

from portal.planner.activations import Kept, attention_kernel, kept, padded
from portal.planner.loss import Loss, loss
from portal.planner.request import Method, Workload
from portal.planner.shapes import ModelShape
from portal.planner.states import WIDTH, Place, States, places, states
from portal.planner.trained import lowest, trains_head

BUCKET = 500_000_000
"""Elements of DeepSpeed's buffer for reducing gradients, allocated whole (its reduce_bucket_size)."""
LIVE = 1_000_000_000
"""Parameters that ZeRO 3 keeps gathered (its stage3_max_live_parameters)."""
PREFETCH = 50_000_000
"""Parameters that it gathers ahead (its stage3_prefetch_bucket_size)."""


@dataclass(frozen=True)
class Moment:
    """Bytes on top of weights, adapters and optimizer. `name`: when it is, for the words."""

    name: str
    gradients: int
    activations: int
    logits: int
    scratch: int
    """What the optimizer takes while it steps."""

    @property
    def total(self) -> int:
        return self.gradients + self.activations + self.logits + self.scratch


@dataclass(frozen=True)
class Step:
    """One device's training step: what stays, the fullest moment, and what it came from."""

    place: Place
    states: States
    moment: Moment
    buffers: int
    kept: Kept
    loss: Loss
    tokens: int
    layers: int
    """Layers that a gradient reaches, and which keep something for it."""
    padded: bool
    unpadded: int
    """Bytes less at the moment where the batch needs no padding."""

    @property
    def total(self) -> int:
        held = self.states
        return held.weights + held.lora + held.optimizer + self.buffers + self.moment.total


def fullest(shape: ModelShape, workload: Workload, method: Method, gpu: bool) -> Step:
    """The step of the device that holds most."""
    steps = [_step(shape, workload, method, gpu, place) for place in places(shape, method)]
    return max(steps, key=lambda step: step.total)


def _step(shape: ModelShape, workload: Workload, method: Method, gpu: bool, place: Place) -> Step:
    held = states(shape, workload, method, place, foreach=gpu)
    layer = kept(shape, workload, method, gpu)
    width, context = WIDTH[method.precision], workload.context
    sequences = method.micro_batch * workload.sequences
    head_too = workload.goal == "full" and trains_head(shape, workload.layers)
    reached = min(place.layers, shape.depth - lowest(shape, workload.layers))
    tokens = sequences * context
    pads = padded(method, sequences)
    after = loss(shape, sequences * max(1, context - 1), width, head_too, gpu, method.tensor)
    one = layer.bytes(tokens, context, pads)
    work = layer.work(tokens, context)
    # Token ids, labels, mask and positions as 64-bit numbers; rotary tables.
    base = float(tokens * 24 + context * 2 * width * _rotary(shape))
    if attention_kernel(shape, method) == "eager":
        base += tokens * context * width  # its mask, in numbers
    waiting = reached * place.in_flight
    if method.checkpointing:
        before, again = float(waiting * tokens * layer.boundary), one
        base += tokens * context if pads else 0
    else:
        before, again = waiting * one - (layer.first * tokens if place.first else 0), 0.0
    collected = held.gradients if method.accumulation > 1 else 0
    head = shape.vocab * shape.hidden * held.trained_width // method.tensor if head_too and place.last else 0
    if method.zero_stage >= 2:
        head = 0
    moments = [
        Moment("at the start of the backward pass", collected + head, int(base + before + again + work), 0, 0),
        Moment(
            "at the end of the backward pass",
            held.gradients,
            int(base + (tokens * layer.boundary + one if method.checkpointing else one) + work),
            0,
            0,
        ),
        Moment("while the optimizer steps", held.gradients + _fp32(held, method), 0, 0, held.scratch),
    ]
    if head_too and shape.tied and place.first and place.last:
        # The embedding's gradients of head and input, and their sum.
        moments.append(
            Moment("at the end of the backward pass", held.gradients + head * (3 if collected else 2), int(base), 0, 0)
        )
    if place.last:
        taken = max(after.tile + after.sums, after.after)
        moments.append(Moment("while the loss is taken back", collected, int(base + before + after.kept), taken, 0))
    moment = max(moments, key=lambda each: each.total)
    saved = 0
    if pads and moment.activations:
        layers = 1 if method.checkpointing or "end" in moment.name else waiting
        layers = 0 if method.checkpointing and moment.logits else layers
        saved = int(layers * (one - layer.bytes(tokens, context, False)))
    return Step(place, held, moment, _buffers(held, shape, method), layer, after, tokens, reached, pads, saved)


def _rotary(shape: ModelShape) -> int:
    attention = shape.layers[0].attention
    return attention.rope_dim or attention.head_dim


def _fp32(held: States, method: Method) -> int:
    """DeepSpeed casts its share of 16-bit gradients to fp32 for the step."""
    if not held.master or not method.zero_stage or held.trained_width == 4 or method.offload_optimizer:
        return 0
    return 4 * held.trainable // method.data


def _buffers(held: States, shape: ModelShape, method: Method) -> int:
    """Buckets of gradients on their way, and ZeRO 3's gathered parameters."""
    if method.zero_stage:
        total = BUCKET * held.trained_width
        if method.zero_stage == 3:
            whole = -(-shape.parameters // (method.tensor * method.pipeline))
            live = min(whole, max(LIVE + PREFETCH, 2 * shape.layer_parameters // method.tensor))
            total += live * WIDTH[method.precision]
        return total
    return held.trainable * held.trained_width if method.data > 1 else 0
