"""Small corpora and both of Lightning's pieces over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from babygpt import BabyGPT, LLMDataModule
from fits import BLOCK, PRESET


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short documents of uneven length."""
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    lines = []
    for number in range(40):
        words = " ".join(f"word{(number * k) % 17} is {k} of {number}" for k in range(1, 3 + number % 9))
        lines.append(json.dumps({"text": f"Document {number}. {words}."}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts and completions of very uneven target counts."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"Question {n}: " + "why " * (n % 5), "completion": "because " * (1 + 3 * (n % 7))}
        for n in range(60)
    ]
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n")
    return path


@pytest.fixture
def make_data(corpus: Path) -> Callable[..., LLMDataModule]:
    """A data module over the corpus."""

    def make(batch_size: int = 4, **kwargs: Any) -> LLMDataModule:
        defaults = {"path": str(corpus), "block": BLOCK, "tokenizer": "train:300"}
        return LLMDataModule(PRESET, batch_size, **{**defaults, **kwargs})

    return make


@pytest.fixture
def make_module() -> Callable[..., BabyGPT]:
    """A tiny module with a constant, visible learning rate."""

    def make(**kwargs: Any) -> BabyGPT:
        return BabyGPT(PRESET, 1e-3, **{"vocab_size": 300, **kwargs})

    return make
