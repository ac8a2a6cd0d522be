"""Gradients at fixed places in the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["keep_places"]


def keep_places(model: nn.Module) -> list[RemovableHandle]:
    """Has each parameter's gradient lie where it lay the step before.

    A gradient stays until the step's end. Among the pieces of a recomputed block, which come and go, it leaves gaps
    that the next block's do not fit in: a step at 11 M parameters whose tensors never take more than 0.36 GiB took
    0.9 GiB of a CPU's memory, and takes 0.5 so. The price is one copy of each gradient a step. A GPU's memory has no
    such gaps: its allocator keeps small and large pieces apart.

    Args:
        model: with its parameters where they stay; those that need no gradient are left alone.

    Returns:
        what ends it when it is removed.
    """
    return [
        parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            _to(torch.empty_like(parameter))
        )
        for parameter in model.parameters()
        if parameter.requires_grad
    ]


def _to(place: torch.Tensor) -> Callable[[torch.Tensor], None]:
    def move(parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        if gradient is not None and gradient is not place and gradient.layout is torch.strided:
            parameter.grad = place.copy_(gradient)

    return move
