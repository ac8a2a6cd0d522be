"""Live bytes are those of the storages, counted by hand; also under autograd."""

from __future__ import annotations

import torch

from babygpt.labs.checkpointing import LiveBytes


def test_births_and_deaths():
    with LiveBytes() as live:
        a = torch.zeros(1000)
        assert live.now == 4000
        b = a + 1
        view = b[10:]
        assert live.now == live.most == 8000
        del a
        assert (live.now, live.most) == (4000, 8000)
        del b
        assert live.now == 4000, "a view keeps its storage"
        view.add_(1)
        assert live.now == 4000, "in place nothing is born"
        del view
    assert live.now == 0
    assert live.most == 8000


def test_what_was_there_before_does_not_count():
    weight = torch.zeros(1000, requires_grad=True)
    with LiveBytes() as live:
        weight.detach().add_(1)
        assert live.most == 0
        out = (weight * 2).exp()
        assert live.now == 8000 or live.now == 4000
        out.sum().backward()
        assert weight.grad is not None
        assert live.most >= 12000, "product or its exp, and the gradients on their way"


def test_activations_that_are_recomputed_are_not_kept():
    from torch.utils.checkpoint import checkpoint

    layers = torch.nn.Sequential(
        *(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU()) for _ in range(8))
    )
    x = torch.zeros(1000, 64, requires_grad=True)
    most = {}
    for keep in (True, False):
        with LiveBytes() as live:
            y = x
            for layer in layers:
                y = layer(y) if keep else checkpoint(layer, y, use_reentrant=False)
            y.sum().backward()
        most[keep] = live.most
        layers.zero_grad()
        x.grad = None
    # Two tensors of 256 kB a layer are kept, or one.
    assert most[True] > 16 * 256_000
    assert most[False] < 14 * 256_000
