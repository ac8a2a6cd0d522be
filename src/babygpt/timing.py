"""A few real optimiser steps, timed."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from babygpt.machine import MachinePlan
from babygpt.model.attention import model_inputs
from babygpt.model.blocks import recompute_blocks
from babygpt.model.loss import find_head, sum_nll
from babygpt.optim.groups import parameter_groups
from babygpt.optim.optimizers import OPTIMIZERS, build_optimizer

__all__ = ["MEASURED", "StepTime", "measure_step"]

# Steps that are timed, at least and at most, and the seconds that end it between; other work comes in bursts.
MEASURED = (3, 12, 6.0)
_SUMMED = 2**23


@dataclass(frozen=True)
class StepTime:
    """Seconds measured on this machine.

    Args:
        step: of an optimiser step.
        forward: of a micro-batch without gradients.
        token: of one token without gradients, as in generating.
        byte: of summing a byte of a checkpoint.
    """

    step: float
    forward: float
    token: float = 0.0
    byte: float = 0.0


def measure_step(
    model: PreTrainedModel,
    batch: Callable[[int], dict[str, torch.Tensor]],
    plan: MachinePlan,
    micro_batches: int,
    optimizer_name: str,
    bounds: tuple[int, int, float] = MEASURED,
) -> StepTime:
    """Times a few real optimiser steps on this machine and puts the weights back, bit for bit.

    Args:
        model: in train mode, on the CPU; it comes back there.
        batch: micro-batch of a number, on the CPU.
        plan: device, precision and which blocks are computed again.
        micro_batches: of one optimiser step.
        optimizer_name: `adamw` or `muon`.
        bounds: steps that are timed, at least and at most, and the seconds that end it between.
    """
    device = torch.device(plan.device)
    before = {k: v.detach().clone() for k, v in model.state_dict().items()}
    network: Any = model  # the types of `to` hide behind a decorator of transformers
    network.to(device)
    head = find_head(model)
    small = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(plan.precision)
    # Muon's own products, which are in bf16 under bf16 alone.
    bf16 = small is torch.bfloat16
    groups = parameter_groups(model, OPTIMIZERS[optimizer_name], 0.1)
    optimizer = build_optimizer(optimizer_name, groups, 1e-9, (0.9, 0.95), bf16=bf16)
    # Without it what is planned since nothing less fits would not fit here.
    recompute_blocks(model, int(plan.activation_checkpointing))

    def micro(number: int) -> torch.Tensor:
        data = {k: v.to(device) for k, v in batch(number).items()}
        isolated = "position_ids" in data
        with torch.autocast(device.type, small, enabled=small is not None):
            inputs = model_inputs(data, isolated=isolated)
            return sum_nll(model, inputs, data["labels"], head, weights=data.get("loss_weights"))

    def step(number: int) -> None:
        for index in range(micro_batches):
            (micro(number * micro_batches + index) / 1e3).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    _timed(lambda: step(0), device)  # to its end, so that nothing of it is counted
    least, most, enough = bounds
    seconds: list[float] = []
    while len(seconds) < least or (len(seconds) < most and sum(seconds) < enough):
        seconds.append(_timed(lambda: step(1 + len(seconds)), device))
    with torch.no_grad():
        forward = _timed(lambda: micro(0), device)
        one = torch.zeros(1, 1, dtype=torch.int64, device=device)
        token = _quickest(lambda: model(input_ids=one), device)
    recompute_blocks(model, 0)
    model.load_state_dict(before)
    network.to("cpu")
    for parameter in model.parameters():
        parameter.grad = None
    sample = bytes(_SUMMED)
    byte = _quickest(lambda: hashlib.sha256(sample), torch.device("cpu")) / _SUMMED
    return StepTime(statistics.median(seconds), forward, token, byte)


def _quickest(work: Callable[[], object], device: torch.device) -> float:
    """Of a few times: what is short is soon disturbed."""
    return min(_timed(work, device) for _ in range(3))


def _timed(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - begun
