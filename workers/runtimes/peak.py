"""The peak of live tensor bytes between two points of a program, exact on any device: every storage is counted once.

Sees what passes PyTorch's dispatcher, also under FakeTensorMode, where no byte is really taken. Doesn't see what a
kernel takes for itself inside one operation, nor the allocator's rounding.
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakTracker(TorchDispatchMode):  # type: ignore[misc]  # the library is untyped
    """Used as a context manager. `peak` and `live` are bytes; `at_peak()` names what was live at the peak.

    A storage counts from the first operation that makes or uses it until nothing refers to it any more, whatever the
    number of views on it. Storages that are there already are counted with `adopt`, or when first used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.phase = ""
        """A word for what the program is doing; stored with the storages made meanwhile."""
        self._sizes: dict[int, int] = {}
        self._labels: dict[int, str] = {}
        self._log: list[tuple[int, int, str]] = []
        self._peak_at = 0

    def adopt(self, tensors: Iterable[Any], label: str) -> None:
        """Count tensors that are there already, such as a model's parameters, under `label`."""
        for tensor in tensors:
            self._see(tensor, label)

    def restart(self) -> None:
        """Forget the peak so far; what is live stays counted."""
        self.peak, self._peak_at = self.live, len(self._log)

    def at_peak(self) -> Counter[str]:
        """Bytes live at the peak by label: 'phase: operation (shape) dtype', or the label of `adopt`."""
        alive: Counter[str] = Counter()
        for _, change, label in self._log[: self._peak_at]:
            alive[label] += change
        return +alive

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor, "given")
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor, None, func)
        return result

    def _see(self, tensor: Any, label: str | None, func: Any = None) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._sizes.get(key)
        if known == size:
            return
        if known is None:
            if label is None:
                kind = str(tensor.dtype).removeprefix("torch.")
                label = f"{self.phase}: {func} {tuple(tensor.shape)} {kind}"
            self._labels[key] = label
            weakref.finalize(storage, self._gone, key).atexit = False
        self._sizes[key] = size
        self._changed(key, size - (known or 0))

    def _gone(self, key: int) -> None:
        self._changed(key, -self._sizes.pop(key))
        self._labels.pop(key)

    def _changed(self, key: int, change: int) -> None:
        self.live += change
        self._log.append((key, change, self._labels[key]))
        if self.live > self.peak:
            self.peak, self._peak_at = self.live, len(self._log)
