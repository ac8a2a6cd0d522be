"""A gradient to an update, in functions that know no trainer: clipping, the optimiser, its schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from babygpt.optim.groups import Rule, parameter_groups
from babygpt.optim.optimizers import build_optimizer
from babygpt.optim.schedules import multiplier

__all__ = ["clipped", "optimizer_on_schedule"]

_ENDLESS = 1_000_000_000  # steps


def clipped(optimizer: torch.optim.Optimizer, most: float | None) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Clips by global norm with torch's own function, right for fused optimisers too.

    Args:
        optimizer: whose parameters' gradients are clipped in place.
        most: largest norm; 0 and None clip nothing.

    Returns:
        The parameters that have a gradient, and its norm before, a scalar on their device.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return parameters, torch.nn.utils.clip_grad_norm_(parameters, most or math.inf)


def optimizer_on_schedule(
    model: torch.nn.Module,
    rules: Sequence[Rule],
    hparams: Mapping[str, Any],
    precision: str,
    total: int | None,
) -> OptimizerLRScheduler:
    """The optimiser over the rule table's groups, and a schedule that steps every optimiser step.

    Args:
        model: whose parameters are grouped.
        rules: the weight-decay table.
        hparams: of `BabyGPT`.
        precision: Lightning's name of it.
        total: steps of the run; None, where they are not known, stays at the peak.
    """
    groups = parameter_groups(model, rules, hparams["weight_decay"])
    optimizer = build_optimizer(
        hparams["optimizer"],
        groups,
        hparams["lr"],
        tuple(hparams["betas"]),
        fused=False if precision == "16-mixed" else None,
        bf16=precision == "bf16-mixed",
    )
    name, length = ("constant", _ENDLESS) if total is None else (hparams["schedule"], total)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: multiplier(name, step, length, hparams["warmup"], hparams["final"])
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
