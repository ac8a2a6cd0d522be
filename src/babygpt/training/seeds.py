"""Random numbers of training, a function of where the run is: no generator's state has to be saved."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["seed_micro_batch"]


def seed_micro_batch(seed: int, step: int, micro: int, rank: int, device: torch.device) -> None:
    """Seeds torch for a micro-batch of a step on a rank, and at a step's first Python's and numpy's generators.

    Of torch's generators those of the CPU and of the device, to what `torch.manual_seed` would give them: that walks
    through every kind of accelerator, and for each that is not in use formats the stack, longer than a small model's
    whole step takes.

    Args:
        seed: of the run.
        step, micro, rank: where the run is.
        device: that the model is on.
    """
    key = np.random.SeedSequence([seed, step, micro, rank])
    value = int(key.generate_state(1, np.uint64)[0]) >> 1
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)
    if micro == 0:
        random.seed(value)
        np.random.seed(value & 0xFFFFFFFF)
