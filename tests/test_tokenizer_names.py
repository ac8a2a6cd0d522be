from __future__ import annotations

import pytest

from babygpt.errors import RecipeError
from babygpt.recipe import DataRecipe
from babygpt.tokenizer_names import TrainedTokenizer, trained_tokenizer


def test_what_is_to_be_trained() -> None:
    assert trained_tokenizer("train:8192") == TrainedTokenizer("bpe", 8192)
    assert trained_tokenizer("train:unigram:257") == TrainedTokenizer("unigram", 257)
    for name in ("auto", "gpt2", "file:gpt2", "trained", "./train:8192"):
        assert trained_tokenizer(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "train:",
        "train:256",
        "train:-300",
        "train:8k",
        "train:٣٠٠",
        "train:wordpiece:8192",
        "train:unigram:",
        "train:unigram:256",
    ],
)
def test_what_is_malformed(name: str) -> None:
    with pytest.raises(RecipeError, match=r"data\.tokenizer: .*how many entries to train.*train:unigram:N"):
        trained_tokenizer(name)
    with pytest.raises(RecipeError, match=r"data\.tokenizer"):
        DataRecipe(tokenizer=name)
