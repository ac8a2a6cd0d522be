"""Sixty documents of a sentence each, and stores built from files."""

from __future__ import annotations

from pathlib import Path

from babygpt.data.prepared import PreparedData
from babygpt.data.store import prepare
from babygpt.recipe import DataRecipe

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
]


def sentence(number: int) -> str:
    return f"Sentence {number}: " + " ".join(WORDS[(number * 7 + k * k) % 12] for k in range(20)) + "."


def build(
    cache: Path, *paths: Path | str, model_name: str = "preset:gpt2-1m", **fields: object
) -> PreparedData:
    recipe = DataRecipe(path=tuple(map(str, paths)), **fields)  # type: ignore[arg-type]
    return prepare(recipe, model_name=model_name, cache=cache)


def texts_of(data: PreparedData, side: str) -> list[str]:
    store = getattr(data, side)
    decode = data.tokenizer.decode
    return [
        str(decode(store.document(n), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for n in range(len(store))
    ]
