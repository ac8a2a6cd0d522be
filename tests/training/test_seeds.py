"""Where a run is decides its random numbers, and to what torch's own seeding would give."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from babygpt.training.seeds import seed_micro_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (7, 3, 0, 1), (2**32 - 1, 10**9, 5, 63)])
def test_the_numbers_are_those_of_torchs_own_seeding(place: tuple[int, int, int, int]) -> None:
    with torch.random.fork_rng(devices=[]):
        seed_micro_batch(*place, CPU)
        ours = torch.rand(5)
        torch.manual_seed(int(np.random.SeedSequence(list(place)).generate_state(1, np.uint64)[0]) >> 1)
        assert torch.equal(ours, torch.rand(5))


def test_python_and_numpy_are_seeded_at_a_steps_first_micro_batch() -> None:
    def drawn(micro: int) -> tuple[float, float]:
        random.seed(1)
        np.random.seed(1)
        seed_micro_batch(0, 4, micro, 0, CPU)
        return random.random(), float(np.random.random())

    with torch.random.fork_rng(devices=[]):
        first, later = drawn(0), drawn(1)
    assert later == (random.Random(1).random(), float(np.random.RandomState(1).random_sample()))
    assert all(a != b for a, b in zip(first, later, strict=True))
