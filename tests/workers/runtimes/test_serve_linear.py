"""The products of a launch's linear layers on a CPU are PyTorch's own, to the rounding, whichever is the quicker."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from workers.runtimes.serve.transformers.linear import QuickLinear, quicken


@pytest.mark.parametrize("gain", [0.0, 1e9])
def test_products_are_those_of_pytorch_for_any_number_of_rows(gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtimes.serve.transformers.linear.GAIN", gain)  # always the one, always the other
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(96, 160), nn.Linear(96, 33, bias=False)])
    quicken(model)
    with torch.inference_mode():
        for layer in model:
            assert isinstance(layer, QuickLinear)
            assert set(layer.by_onednn) == {gain > 0}
            for rows in (1, 2, 7, 16, 130):
                given = torch.randn(1, rows, 96)
                torch.testing.assert_close(layer(given), linear(given, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)


def test_other_layers_and_other_formats_stay_as_they_are() -> None:
    class Counted(nn.Linear):  # type: ignore[misc]  # the library is untyped
        """Some library's own."""

    model = nn.ModuleList([nn.Linear(8, 8).to(torch.bfloat16), Counted(8, 8), nn.Linear(8, 8, device="meta")])
    quicken(model)
    assert [type(layer) for layer in model] == [nn.Linear, Counted, nn.Linear]
