"""DeepSpeed's own estimate of the model states under ZeRO 2 and 3, to the byte, to put ours beside it.

Source: deepspeed.runtime.zero.stage_1_and_2.estimate_zero2_model_states_mem_needs and stage3's counterpart (0.19).
Knows no activations, and takes mixed precision with fp32 gradients for granted.
"""

FACTOR = 1.5
"""DeepSpeed's reserve for host memory."""


def zero2_needs(parameters: int, devices: int, nodes: int, offload_optimizer: bool) -> tuple[int, int]:
    """(bytes of host memory a node, bytes a device) for `devices` a node on `nodes` nodes."""
    every = devices * nodes
    if offload_optimizer:
        return int(parameters * max(4 * every, 16) * FACTOR), int(2 * parameters)
    return int(parameters * 4 * devices * FACTOR), int(2 * parameters + int(18 * parameters / every))


def zero3_needs(
    parameters: int, largest_layer: int, devices: int, nodes: int, offload_optimizer: bool, offload_parameters: bool
) -> tuple[int, int]:
    """As zero2_needs, with the live parameters of the largest layer; the model is sharded while it is loaded."""
    live, share = 4 * largest_layer, 1 / nodes
    if offload_optimizer and offload_parameters:
        return int(parameters * 18 * share * FACTOR), live
    if offload_optimizer:
        return int(parameters * 16 * share * FACTOR), live + int(2 * parameters / (devices * nodes))
    return int(largest_layer * 4 * devices * FACTOR), live + int(18 * parameters / (devices * nodes))
