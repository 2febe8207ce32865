"""The products of a launch's linear layers on a CPU are PyTorch's own, to the rounding."""

import torch
from torch import nn
from torch.nn.functional import linear

from workers.runtimes.serve.transformers.linear import OneDnnLinear, quicken


def test_products_are_those_of_pytorch_for_any_number_of_rows() -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(96, 160), nn.Linear(96, 33, bias=False)])
    quicken(model)
    with torch.inference_mode():
        for layer in model:
            assert isinstance(layer, OneDnnLinear)
            for rows in (1, 2, 7, 16, 130):
                given = torch.randn(1, rows, 96)
                torch.testing.assert_close(layer(given), linear(given, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)


def test_other_layers_and_other_formats_stay_as_they_are() -> None:
    class Counted(nn.Linear):  # type: ignore[misc]  # the library is untyped
        """Some library's own."""

    model = nn.ModuleList([nn.Linear(8, 8).to(torch.bfloat16), Counted(8, 8), nn.Linear(8, 8, device="meta")])
    quicken(model)
    assert [type(layer) for layer in model] == [nn.Linear, Counted, nn.Linear]
