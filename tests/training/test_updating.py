"""A gradient on its way to an update, against arithmetic by hand."""

from __future__ import annotations

import pytest
import torch

from babygpt.training.updating import clipped


@pytest.mark.parametrize(("most", "wanted"), [(1.0, 0.2), (None, 1.0), (0.0, 1.0), (10.0, 1.0)])
def test_the_norm_is_of_all_gradients_and_as_it_was(most: float | None, wanted: float) -> None:
    a, b, none = (torch.nn.Parameter(torch.zeros(n)) for n in (1, 2, 3))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([0.0, -4.0])
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b, none]}], lr=1.0)
    parameters, norm = clipped(optimizer, most)
    assert norm.item() == 5.0
    assert [p is q for p, q in zip(parameters, (a, b), strict=True)] == [True, True]
    torch.testing.assert_close(torch.cat([a.grad, b.grad]), wanted * torch.tensor([3.0, 0.0, -4.0]))
