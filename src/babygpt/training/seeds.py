"""Random numbers of training, a function of where the run is: no generator's state has to be saved."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["seed_micro_batch"]


def seed_micro_batch(seed: int, step: int, micro: int, rank: int) -> None:
    """Seeds torch for a micro-batch of a step on a rank, and at a step's first Python's and numpy's generators."""
    key = np.random.SeedSequence([seed, step, micro, rank])
    value = int(key.generate_state(1, np.uint64)[0]) >> 1
    torch.manual_seed(value)
    if micro == 0:
        random.seed(value)
        np.random.seed(value & 0xFFFFFFFF)
