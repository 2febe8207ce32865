"""The loss of an undisturbed run, step by step: what every run of the chaos child must come to, however disturbed.

Each step depends on all before it, so a state that was restored wrongly shows in the losses. Pure.
"""

_MASK = 2**64 - 1


def start(seed: int) -> int:
    """The state before the first step."""
    return (seed * 0x9E3779B97F4A7C15 + 1) & _MASK


def advance(state: int, step: int) -> int:
    """The state after `step`, which counts from 1."""
    return (state * 6364136223846793005 + 1442695040888963407 + step) & _MASK


def loss(state: int, step: int) -> float:
    """Falls with the step, with noise of the state."""
    return 4.0 / (1.0 + step / 8.0) + (state >> 40) / 2**24 / 10


def losses(seed: int, steps: int) -> dict[int, float]:
    """Step → loss of a run that nothing disturbs."""
    state, found = start(seed), {}
    for step in range(1, steps + 1):
        state = advance(state, step)
        found[step] = loss(state, step)
    return found
