"""What the perplexity watch says, and when."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from babygpt.training.watch import PerplexityWatch, describe_start, fall_in_words, is_not_learning


@pytest.mark.parametrize(
    ("perplexity", "says"),
    [
        (20.0, "as pretrained ones do"),
        (100.0, "as pretrained ones do"),
        (400.0, "partly trained"),
        (50_000.0, "training from scratch"),
        (60_000.0, "training from scratch"),
        (200_000.0, "is the tokenizer the model's own?"),
    ],
)
def test_the_start_in_words(perplexity: float, says: str) -> None:
    line = describe_start(perplexity, 50_257)
    assert says in line
    assert f"{perplexity:,.1f}" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("perplexity", "step", "total", "vocabulary", "told"),
    [
        (1001, 100, 400, 50_257, True),
        (1001, 99, 400, 50_257, False),
        (1001, 249, 1000, 50_257, False),
        (1001, 250, 1000, 50_257, True),
        (1000, 250, 1000, 50_257, False),
        (1001, 100, None, 50_257, True),
        # A small vocabulary guesses evenly below 1,000 already.
        (600, 250, 1000, 2048, True),
        (500, 250, 1000, 2048, False),
    ],
)
def test_a_run_that_is_not_learning(
    perplexity: float, step: int, total: int | None, vocabulary: int, told: bool
) -> None:
    assert is_not_learning(perplexity, step, total, vocabulary) is told


def test_each_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = PerplexityWatch()
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=4096))
    module: Any = SimpleNamespace(model=SimpleNamespace(config=config))

    def validated(step: int, perplexity: float) -> list[str]:
        caplog.clear()
        trainer: Any = SimpleNamespace(
            callback_metrics={"val_perplexity": torch.tensor(perplexity)},
            is_global_zero=True,
            global_step=step,
            max_steps=400,
        )
        with caplog.at_level(logging.INFO, logger="lightning.pytorch.babygpt"):
            watch.on_validation_end(trainer, module)
        return [r.getMessage() for r in caplog.records]

    assert len(validated(0, 4100.0)) == 1
    assert validated(0, 4100.0) == []
    assert validated(50, 4000.0) == []
    (warning,) = validated(100, 3000.0)
    assert warning.startswith("not learning: validation perplexity is still 3,000 at step 100")
    assert "optim.lr" in warning
    assert validated(200, 3000.0) == []


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (8314.0, 54.6, "from 8,314.0: 152x lower"),
        (90.0, 60.0, "from 90.0: 1.50x lower"),
        (55.1, 55.0, "from 55.1: about the same"),
        (50.0, 60.0, "from 50.0: 1.20x higher"),
        (50.0, 1e4, "from 50.0: 200x higher"),
    ],
)
def test_how_far_it_fell(first, last, words):
    assert fall_in_words(first, last) == words
