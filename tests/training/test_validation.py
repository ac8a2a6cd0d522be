from __future__ import annotations

import math

import pytest
import torch

from babygpt.training.validation import ValidationSums


def test_losses_are_totals_over_totals_of_everything_and_of_each_source() -> None:
    sums = ValidationSums(["a", "b", "none"], [0, 0, 1, 2], [4.0, 2.0, 1.0])
    for batch, (nll, targets) in enumerate([(6.0, 3), (2.0, 1), (40.0, 10), (0.0, 0)]):
        sums.add(batch, torch.tensor(nll), torch.tensor(targets))
    found = sums.metrics(lambda tensor: tensor)
    assert found["val_loss/a"] == 8 / 4
    assert found["val_loss/b"] == 40 / 10
    assert found["val_loss"] == 48 / 14
    assert found["val_perplexity"] == pytest.approx(math.exp(48 / 14))
    assert found["val_bits_per_byte"] == pytest.approx(48 / math.log(2) / (4 * 4 + 10 * 2))
    assert set(found) == {"val_loss", "val_perplexity", "val_bits_per_byte", "val_loss/a", "val_loss/b"}


def test_ranks_add_up() -> None:
    sums = ValidationSums(["a", "b"], [0, 1], [1.0, 1.0])
    sums.add(0, torch.tensor(6.0), torch.tensor(3))
    other = torch.tensor([[0.0, 1.0], [5.0, 1.0]], dtype=torch.float64)
    found = sums.metrics(lambda tensor: tensor + other)
    assert (found["val_loss/a"], found["val_loss/b"]) == (6 / 4, 5.0)


def test_one_source_has_no_name_and_nothing_is_said_of_nothing() -> None:
    sums = ValidationSums()
    assert sums.metrics(lambda tensor: tensor) == {}
    sums.add(7, torch.tensor(6.0), torch.tensor(3))
    assert sums.metrics(lambda tensor: tensor) == {"val_loss": 2.0, "val_perplexity": math.exp(2)}
