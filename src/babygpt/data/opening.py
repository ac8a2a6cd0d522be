"""A data recipe that names a corpus to its stores, wherever it lies.

    CACHE/corpora/KEY/   what is kept of a corpus elsewhere: tokenizer, index, windows; KEY of its corpus.json
    CACHE/pieces/        the pieces of all of them (`piece_cache`)

How documents were read, split and tokenised was decided when the corpus was prepared: a recipe may say the same, or
leave it at the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from babygpt.data.arrow import TokenStore, open_store
from babygpt.data.checking import wrong_sizes
from babygpt.data.corpus import CORPUS_NAME, SIDES, Corpus, read_corpus
from babygpt.data.corpus_index import Index, Place
from babygpt.data.piece_cache import bound_of
from babygpt.data.remote import is_remote
from babygpt.data.streamed import StreamedStore
from babygpt.data.tokenizers import load_tokenizer, tokenizer_identity, tokenizer_source
from babygpt.disk import expanded
from babygpt.errors import DataError, RecipeError, TokenizerError
from babygpt.hub import looks_like_path
from babygpt.recipe import DataRecipe
from babygpt.tokenizer_names import TrainedTokenizer
from babygpt.untrusted import redacted

__all__ = ["PREPARED_BY", "Opened", "corpora_among", "open_corpus", "settings_of"]

_AGAIN = "Copy the corpus again, whole"
PREPARED_BY = ("field", "val_fraction", "deduplicate", "tokenizer", "train_on_prompts")


@dataclass(frozen=True)
class Opened:
    """A corpus that can be trained from.

    Attributes:
        corpus: what it says of itself.
        train, val: its stores.
        tokenizer: what encoded both.
        note: where it is and how it is read, for people.
    """

    corpus: Corpus
    train: TokenStore
    val: TokenStore
    tokenizer: PreTrainedTokenizerBase
    note: str


def settings_of(recipe: DataRecipe) -> dict[str, Any]:
    """What a corpus remembers of the recipe that it was prepared by; no path and nothing secret."""
    kept = {name: getattr(recipe, name) for name in PREPARED_BY} | {"has_val_path": bool(recipe.val_path)}
    loaded = recipe.tokenizer.removeprefix("file:")
    if looks_like_path(loaded) or expanded(loaded).exists():
        kept["tokenizer"] = f"the folder {expanded(loaded).absolute().name}"
    return kept


def corpora_among(paths: tuple[str, ...], cache: Path) -> list[Corpus | None]:
    """For each path the corpus that it names, or None."""
    return [read_corpus(path, cache) for path in paths]


def open_corpus(
    recipe: DataRecipe,
    corpus: Corpus,
    cache: Path,
    *,
    model_name: str,
    revision: str | None,
    cache_gb: float | None,
) -> Opened:
    """Opens the corpus that a recipe's one path names.

    Args:
        recipe: its other fields must not ask for anything else than what is there.
        corpus: of the path.
        cache: folder of the cache.
        model_name: whose tokenizer `auto` means.
        revision: of a hub model.
        cache_gb: most gigabytes of pieces on the disk; None takes `piece_cache.bound_of`'s own.

    Raises:
        RecipeError: the recipe asks for other documents.
        TokenizerError: it asks for another tokenizer.
        DataError: what is there is not what `corpus.json` says.
    """
    (path,) = recipe.path
    _check_settings(recipe, corpus, redacted(path))
    if is_remote(path):
        pieces = cache / "pieces"
        place = Place(path, corpus, cache / "corpora" / corpus.key, pieces, bound_of(pieces, cache_gb))
        index = Index(place)
        for name in corpus.files:
            if name.startswith("tokenizer/"):
                index.path(name)
        folder = place.folder
        stores: list[TokenStore] = [StreamedStore(place, side) for side in SIDES]
        note = f"{redacted(path)}: streamed, with at most {place.most / 1e9:.3g} GB kept in {pieces}"
    else:
        folder = expanded(path).parent
        if wrong := wrong_sizes(folder, corpus):
            raise DataError(
                wrong[0],
                where=str(folder),
                hint=f"{_AGAIN}; babygpt checkpoint verify names all that differs",
            )
        stores = [_local(folder, side, corpus) for side in SIDES]
        note = f"{path}: a prepared corpus on this computer's disk"
    tokenizer = load_tokenizer(folder / "tokenizer")
    _check_tokenizer(recipe, corpus, tokenizer, model_name, revision)
    return Opened(corpus, stores[0], stores[1], tokenizer, note)


def _local(folder: Path, side: str, corpus: Corpus) -> TokenStore:
    store = open_store(folder / side)
    if store.manifest != corpus.sides[side].manifest:
        raise DataError(
            f"is not the store that {CORPUS_NAME} speaks of",
            where=str(folder / side),
            hint=_AGAIN,
        )
    return store


def _check_settings(recipe: DataRecipe, corpus: Corpus, shown: str) -> None:
    usual = DataRecipe()
    for name in PREPARED_BY:
        asked, there = getattr(recipe, name), corpus.settings.get(name)
        if name != "tokenizer" and asked not in (getattr(usual, name), there):
            raise RecipeError(
                f"{shown} was prepared with {there}, which cannot be changed to {asked} any more",
                where=f"data.{name}",
                hint="Leave it out, or prepare another corpus from the text",
            )
    if recipe.val_path:
        raise RecipeError(
            f"{shown} holds its own validation data",
            where="data.val_path",
            hint="Leave it out, or give data.val_path when the corpus is prepared",
        )


def _check_tokenizer(
    recipe: DataRecipe,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    model_name: str,
    revision: str | None,
) -> None:
    """Refuses a tokenizer other than the corpus's: a named one, or a pretrained model's own."""
    asked = tokenizer_source(recipe.tokenizer, model_name)
    if isinstance(asked, TrainedTokenizer):
        if recipe.tokenizer in ("auto", corpus.settings.get("tokenizer")):
            return
        what = (
            f"the corpus was tokenised with {corpus.settings.get('tokenizer')}, not with {recipe.tokenizer}"
        )
        raise TokenizerError(
            what, where="data.tokenizer", hint="Leave it out, which takes the corpus's own tokenizer"
        )
    named = load_tokenizer(asked, revision=revision if recipe.tokenizer == "auto" else None)
    if tokenizer_identity(named) not in (corpus.tokenizer, tokenizer_identity(tokenizer)):
        raise TokenizerError(
            f"the corpus was tokenised with another tokenizer than that of {asked}",
            where="data.tokenizer" if recipe.tokenizer != "auto" else "model.name",
            hint="Prepare a corpus with the model's own tokenizer",
        )
