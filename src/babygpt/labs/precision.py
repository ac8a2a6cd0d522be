"""fp32, bf16 and fp16: speed, memory and loss on this machine.

Mixed precision keeps the weights in fp32 and rounds what goes into the matrix products. On a processor without
instructions for 16 bits it is slower than fp32. On a CPU Lightning turns `16-mixed` into bf16; the fp16 arm
therefore runs under torch's own autocast, without a loss scaler.
"""

from __future__ import annotations

import torch

from babygpt import BabyGPT
from babygpt.computer import multiplies_bf16
from babygpt.labs.checkpointing import Weighed, timed_and_weighed, trainings
from babygpt.labs.framework import Arm, Claim, Contrast, Lab, Measured, Outcome, Setting

__all__ = ["LAB"]


class Half(BabyGPT):
    """Runs forward passes under fp16."""

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """A step in fp16."""
        with torch.autocast("cpu", torch.float16):
            return super().training_step(batch, batch_idx)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """A validation batch in fp16."""
        with torch.autocast("cpu", torch.float16):
            super().validation_step(batch, batch_idx)


class HalfWeighed(Half, Weighed):
    """The same, with its memory counted."""


def run(setting: Setting) -> Measured:
    """One run."""
    if setting.variant == "fp16":
        return timed_and_weighed(setting, Half, HalfWeighed)
    return timed_and_weighed(setting, BabyGPT, Weighed)


def notice() -> str:
    """Where there are no instructions for 16 bits."""
    if multiplies_bf16():
        return ""
    return (
        "This processor has no instructions for bf16: each product is put together from fp32. The times say what that"
        " costs, and nothing of bf16 on hardware that has them; losses and memory are as they would be there."
    )


LAB = Lab(
    name="precision",
    line="fp32, bf16 and fp16: speed, memory and loss on this machine",
    question="Is 16-bit arithmetic faster or smaller on this machine, and does it cost loss?",
    protocol=(
        "The same random weights are trained on the same windows with forward passes in fp32, bf16 and fp16 and"
        " master"
        " weights in fp32. Times are of the steps after the first; memory is that of the storages a step makes."
    ),
    arms=(
        Arm("fp32", "every product in fp32", {"variant": "fp32"}),
        Arm("bf16", "products in bf16", {"variant": "bf16", "precision": "bf16-mixed"}),
        Arm("fp16", "products in fp16, no loss scaler", {"variant": "fp16"}),
    ),
    outcomes=(
        Outcome("val_loss", "validation loss at the end, nats a token"),
        Outcome("cpu_ms", "CPU time of a step, ms", ratio=True),
        Outcome("wall_ms", "wall time of a step, ms", ratio=True),
        Outcome("peak_mb", "peak memory of a step beside weights and optimiser state, MB", ratio=True),
    ),
    contrasts=tuple(
        Contrast(outcome, arm, "fp32")
        for outcome in ("val_loss", "cpu_ms", "wall_ms", "peak_mb")
        for arm in ("bf16", "fp16")
    ),
    claims=(
        Claim(
            "16-bit arithmetic is a huge speedup: half the time or less", "cpu_ms", "bf16", "fp32", 0.0, 0.5
        ),
    ),
    run=run,
    notice=notice,
    trainings=trainings,
)
