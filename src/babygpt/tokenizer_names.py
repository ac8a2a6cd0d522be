"""What `data.tokenizer` may say besides a folder or a hub name, and which class a saved tokenizer names.

auto                          the model's own; for random weights one that is trained
train:N, train:unigram:N      trained on the data, N entries
file:NAME                     NAME's tokenizer.json as it is
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from babygpt.errors import RecipeError
from babygpt.untrusted import read_json

__all__ = ["FROM_FILE", "TrainedTokenizer", "loader_of", "names_no_class", "trained_tokenizer"]

FROM_FILE = "file:"
_NO_CLASS = ("TokenizersBackend", "PreTrainedTokenizerFast")
# 256 bytes and the end-of-text token: the smallest vocabulary of a byte-level tokenizer.
_SMALLEST_VOCABULARY = 257


@dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer that is to be trained on the data: its kind and its number of entries, at most."""

    kind: Literal["bpe", "unigram"]
    vocab_size: int


def trained_tokenizer(name: str) -> TrainedTokenizer | None:
    """What a `data.tokenizer` of `train:N` or `train:unigram:N` asks for; None for one that is loaded.

    Raises:
        RecipeError: it begins so and is malformed.
    """
    if not name.startswith("train:"):
        return None
    unigram = name.startswith("train:unigram:")
    size = name.removeprefix("train:").removeprefix("unigram:")
    if not (size.isascii() and size.isdecimal() and int(size) >= _SMALLEST_VOCABULARY):
        raise RecipeError(
            f"{name!r} does not say how many entries to train",
            where="data.tokenizer",
            hint=f"Give train:N or train:unigram:N with N of at least {_SMALLEST_VOCABULARY}, such as train:8192",
        )
    return TrainedTokenizer("unigram" if unigram else "bpe", int(size))


def names_no_class(folder: Path) -> bool:
    """Whether a tokenizer was saved as nothing but its file, as those are that were trained or taken by `file:`.

    Raises:
        OSError, ValueError: its `tokenizer_config.json` cannot be read or is malformed.
    """
    file = folder / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else None
    return isinstance(config, dict) and config.get("tokenizer_class") in _NO_CLASS


def loader_of(folder: Path) -> str:
    """The class of transformers that loads a folder's tokenizer with the ids that a model was trained on.

    Beside some kinds of models, as qwen2, `AutoTokenizer` takes the kind's own class, whatever was saved.
    """
    try:
        return "PreTrainedTokenizerFast" if names_no_class(folder) else "AutoTokenizer"
    except (OSError, ValueError):
        return "AutoTokenizer"  # a damaged folder, of which others tell
