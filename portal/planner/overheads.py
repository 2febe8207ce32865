"""What a device has in use besides tensors: the runtime, matrix libraries, and the allocator's slack.

Knows nothing of models.
"""

from portal.planner.hardware import DeviceSpec

MIB = 2**20
CONTEXT = {
    "cuda": (250 * MIB, 450 * MIB, 800 * MIB),
    "rocm": (250 * MIB, 500 * MIB, 1000 * MIB),
    "cpu": (300 * MIB, 400 * MIB, 600 * MIB),
}
"""Low, expected and high bytes before the first tensor. CUDA's context with PyTorch's kernels grows with the device's
multiprocessors and the modules that are loaded; on a CPU it is Python with PyTorch, Transformers and TRL."""
SLACK = {"cuda": (0.01, 0.04, 0.10), "rocm": (0.01, 0.04, 0.10), "cpu": (0.02, 0.20, 0.60)}
"""Share of the tensors' bytes that the allocator holds without being able to use it: blocks of 2 MiB and their
remainders (PyTorch's "CUDA semantics" notes, Memory management); on a CPU what malloc hasn't given back and what
kernels take for themselves: 2% to 60% in the runs of the planner's bench, half of them below 22%."""
HOPPER = 9.0


def context_bytes(device: DeviceSpec) -> tuple[int, int, int]:
    """(low, expected, high) of the runtime itself."""
    return CONTEXT[device.kind]


def library_bytes(device: DeviceSpec) -> int:
    """cuBLAS's workspace: 32 MiB from Hopper on, 8 MiB and a bit before (PyTorch's CUBLAS_WORKSPACE_CONFIG)."""
    if device.kind == "cpu":
        return 0
    return 32 * MIB if device.kind == "cuda" and (device.capability or 0) >= HOPPER else 8_519_680
