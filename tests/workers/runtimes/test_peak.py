"""The tracker of live tensor bytes, against cases that can be counted by hand."""

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
from workers.runtimes.peak import PeakTracker  # noqa: E402 - needs torch

KIB = 1024


def test_views_are_counted_once_and_freed_with_the_last() -> None:
    with PeakTracker() as tracker:
        whole = torch.zeros(256)
        half = whole[:128]
        assert tracker.live == KIB
        del whole
        assert tracker.live == KIB
        del half
        assert tracker.live == 0
    assert tracker.peak == KIB


def test_what_was_there_before_is_adopted() -> None:
    weights = torch.ones(256)
    square = weights.view(16, 16)
    with PeakTracker() as tracker:
        tracker.adopt([weights, square], "weights")
        assert (tracker.live, tracker.peak) == (KIB, KIB)
        doubled = weights * 2
        assert tracker.live == 2 * KIB
    assert tracker.at_peak()["weights"] == KIB
    assert doubled.shape == (256,)


def test_a_training_step_by_hand() -> None:
    """y = (w · x)²: the backward pass needs w · x, two gradients of it at once, then w's gradient stays."""
    weights = torch.ones(256, requires_grad=True)
    inputs = torch.ones(256)
    with PeakTracker() as tracker:
        tracker.adopt([weights, inputs], "given")
        tracker.phase = "forward"
        product = weights * inputs
        loss = product.pow(2).sum()
        assert tracker.live == 3 * KIB + 4  # the square itself is gone, its sum is there
        tracker.phase = "backward"
        loss.backward()
        del loss, product
        assert tracker.live == 3 * KIB
    assert weights.grad.untyped_storage().nbytes() == KIB
    assert any(label.startswith("backward: aten.") for label in tracker.at_peak())


def test_optimizer_states_stay() -> None:
    layer = torch.nn.Linear(64, 64, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())
    size = 64 * 64 * 4
    with PeakTracker() as tracker:
        tracker.adopt(layer.parameters(), "weights")
        layer(torch.ones(1, 64)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert 3 * size <= tracker.live <= 3 * size + KIB  # weights and two moments
    assert tracker.peak >= 6 * size  # with gradients, and two copies of the second moment in the step


def test_a_peak_can_be_begun_anew() -> None:
    with PeakTracker() as tracker:
        big = torch.zeros(KIB)
        del big
        tracker.restart()
        small = torch.zeros(16)
    assert tracker.peak == 64
    assert small.shape == (16,)


def test_tensors_without_values_count_like_real_ones() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    def step() -> int:
        with PeakTracker() as tracker:
            layer = torch.nn.Linear(64, 64)
            layer(torch.zeros(8, 64)).relu().sum().backward()
        return int(tracker.peak)

    real = step()
    with FakeTensorMode():
        assert step() == real
