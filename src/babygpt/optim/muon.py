"""Muon for the hidden matrices and AdamW for the rest, as one optimiser.

Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) replaces a matrix's momentum by the nearest
semi-orthogonal matrix, so that every direction moves by the same amount:

1. M <- beta * M + (1 - beta) * G, and Nesterov's look ahead U = beta * M + (1 - beta) * G.
2. O = U with its singular values brought near 1 by five Newton-Schulz steps of an odd quintic polynomial.
3. W <- (1 - lr * decay) * W - lr * 0.2 * sqrt(max(rows, columns)) * O. The factor gives the update the usual
   root mean square of an AdamW update, so that both share one learning rate and one decay (Liu et al.,
   arXiv:2502.16982).

Matrices of equal shape go through step 2 together. GPT-2 stores its matrices transposed, which changes nothing
here, and its queries, keys and values side by side in one, which does: each is orthogonalised for itself.

Cost of step 2 for a matrix of m rows and n >= m columns: 5 * (4 * m^2 * n + 2 * m^3) FLOPs a step, whatever the
batch. State: one fp32 moment a parameter where AdamW has two.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.optim.adamw import adamw

__all__ = ["Muon", "matrix_shapes", "orthogonalize"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_MOMENTUM = 0.95
_RMS_OF_ADAMW = 0.2


class Muon(torch.optim.Optimizer):
    """Muon on groups whose `update` is `muon`, AdamW on the others.

    Args:
        groups: of `parameter_groups`: `params`, `weight_decay`, `update`, and of Muon's groups `parts`: into how
            many matrices side by side along its longer dimension each parameter falls.
        lr: peak learning rate of both.
        betas: of AdamW.
        eps: of AdamW.
        fused: whether AdamW runs as one kernel.
        dtype: of the Newton-Schulz steps; bf16 is enough where the hardware has it.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        *,
        eps: float = 1e-8,
        fused: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._fused, self._dtype = fused, dtype
        super().__init__(
            groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "update": "adamw"}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["update"] == "muon":
                self._muon(group)
            else:
                self._adamw(group)
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        moved = [(p, n) for p, n in zip(group["params"], group["parts"], strict=True) if p.grad is not None]
        if not moved:
            return
        parameters = [p for p, _ in moved]
        gradients = [p.grad for p in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        updates = torch._foreach_lerp(gradients, momenta, _MOMENTUM)
        alike: dict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
        for (parameter, parts), whole in zip(moved, updates, strict=True):
            along = _along(parameter)
            for weight, update in zip(parameter.chunk(parts, along), whole.chunk(parts, along), strict=True):
                tall = update.shape[0] > update.shape[1]
                pair = (weight.T, update.T) if tall else (weight, update)
                alike[tuple(pair[0].shape)].append(pair)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for shape, pairs in alike.items():
            moves = orthogonalize(torch.stack([u for _, u in pairs]).to(self._dtype)).to(pairs[0][0].dtype)
            scale = group["lr"] * _RMS_OF_ADAMW * math.sqrt(max(shape))
            torch._foreach_sub_([weight for weight, _ in pairs], list(moves.unbind()), alpha=scale)

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                on = parameter.device if self._fused else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float32, device=on)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        if not parameters:
            return
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=self._fused,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def matrix_shapes(parameters: Sequence[torch.Tensor], parts: Sequence[int]) -> list[tuple[int, int]]:
    """(rows, columns), rows <= columns, of each matrix that the parameters are made of; arguments as in a group."""
    shapes = []
    for parameter, count in zip(parameters, parts, strict=True):
        shape = list(parameter.shape)
        shape[_along(parameter)] //= count
        shapes += [(min(shape), max(shape))] * count
    return shapes


def _along(parameter: torch.Tensor) -> int:
    """The dimension along which the matrices of a parameter lie side by side."""
    return int(parameter.shape[1] >= parameter.shape[0])


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices with the same singular vectors and singular values of about 1 (0.7 to 1.2).

    Args:
        matrices: [matrices, rows, columns], rows <= columns; a zero matrix stays zero.
    """
    a, b, c = _COEFFICIENTS
    x: torch.Tensor = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
