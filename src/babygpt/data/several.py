"""A recipe with weights to token stores: one a source, each under a key of its own, and one tokenizer for all.

Weights are no part of any key: other weights, or a source more, tokenise nothing again. A tokenizer that is trained
here is trained on all sources, each with the share that it has of the text, and kept under a key of its own.

    CACHE/tokenizers/KEY/   tokenizer/  manifest.json
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from babygpt.data import duplicates
from babygpt.data.building import TrainingText
from babygpt.data.cache import clear_leftovers, default_cache, publishing
from babygpt.data.choosing import Progress
from babygpt.data.corpus import Corpus
from babygpt.data.excerpts import SAMPLE_BYTES, SAMPLING, excerpts
from babygpt.data.identity import Survey
from babygpt.data.joined import JoinedStore
from babygpt.data.opening import corpora_among
from babygpt.data.prepared import PreparedData, Sources, look, open_prepared
from babygpt.data.prompts import check_prompts
from babygpt.data.reading import READING_VERSION
from babygpt.data.sources import Say
from babygpt.data.store import prepare, refuse_no_tokenizer, text_to_train_on
from babygpt.data.tokenizers import load_tokenizer, tokenizer_source, train_tokenizer
from babygpt.errors import CheckpointError, DataError, RecipeError, TokenizerError
from babygpt.files import publish_folder, read_manifest, remove_folder
from babygpt.recipe import DataRecipe
from babygpt.tokenizer_names import TrainedTokenizer
from babygpt.units import file_size_words

__all__ = ["names_of", "prepare_several"]


def names_of(paths: Sequence[str]) -> tuple[str, ...]:
    """A name for each source: its path's last component, fit for a key, and a number where two are alike."""
    plain = []
    for path in paths:
        bare = re.sub(r"[?#].*|\[:\d+\]$", "", path)  # no query, and no number of rows
        last = re.split(r"[/\\:]", bare.rstrip("/\\"))[-1]
        name = "stdin" if path == "-" else re.sub(r"[^\w.-]", "_", last, flags=re.ASCII)
        plain.append(name if re.search(r"[A-Za-z0-9]", name) else "source")
    names: list[str] = []
    seen: Counter[str] = Counter()
    for name in plain:
        unique = name
        while unique in names or (unique != name and unique in plain):
            seen[name] += 1
            unique = f"{name}-{seen[name] + 1}"
        names.append(unique)
    return tuple(names)


def prepare_several(
    recipe: DataRecipe,
    *,
    model_name: str,
    revision: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    prepared_as: str | None = None,
    cache_gb: float | None = None,
) -> PreparedData:
    """Build a store for each path, or find it in the cache; arguments and errors as of `store.prepare`.

    Args:
        say: told every note once, with the name of its source, and what is of no interest later.
        prepared_as: the keys of all stores, joined by `+`.

    Returns:
        The stores joined (`joined.JoinedStore`), in the order of the paths.
    """
    home = cache or default_cache()
    names = names_of(recipe.path)
    recipes = [
        replace(recipe, path=(path,), weights=(), val_path=recipe.val_path[number : number + 1])
        for number, path in enumerate(recipe.path)
    ]
    if prepared_as is not None:
        known = [open_prepared(home, key) for key in prepared_as.split("+")]
        whole = [data for data in known if data is not None]
        if len(whole) == len(known) == len(names):
            for each, there in zip(recipes, whole, strict=True):
                check_prompts(each, there.masked, there.withheld)
            return _join(names, whole)
    wanted = tokenizer_source(recipe.tokenizer, model_name)
    say = say or (lambda note: None)
    notes: list[str] = []
    corpora = corpora_among((*recipe.path, *recipe.val_path), home)
    if any(corpora):
        _refuse_mixed(corpora, wanted)
    elif isinstance(wanted, TrainedTokenizer):
        refuse_no_tokenizer([*recipe.path, *recipe.val_path], recipe.field)
        folder, note = _common_tokenizer(recipes, wanted, home, progress or (lambda *_: None), say)
        recipes = [replace(each, tokenizer=str(folder)) for each in recipes]
        notes.append(note)
        say(note)
    data = []
    for name, each in zip(names, recipes, strict=True):

        def named(note: str, name: str = name) -> None:
            say(f"{name}: {note}")

        data.append(
            prepare(
                each,
                model_name=model_name,
                revision=revision,
                cache=cache,
                progress=progress,
                say=named,
                cache_gb=cache_gb,
            )
        )
    return _join(names, data, notes)


def _refuse_mixed(corpora: Sequence[Corpus | None], wanted: str | TrainedTokenizer) -> None:
    """Refuses sources that would be tokenised differently; each corpus brings a tokenizer along.

    Raises:
        RecipeError: they would be.
    """
    known = {corpus.tokenizer for corpus in corpora if corpus is not None}
    if len(known) > 1:
        raise RecipeError(
            "the corpora were tokenised with different tokenizers",
            where="data.path",
            hint="Prepare all of them with one: data.tokenizer may name a folder",
        )
    if None in corpora and isinstance(wanted, TrainedTokenizer):
        raise RecipeError(
            "text beside a corpus has to be tokenised as that was, and a tokenizer would be trained here",
            where="data.tokenizer",
            hint="Name the corpus's tokenizer: a copy of its folder tokenizer",
        )


def _join(names: Sequence[str], data: Sequence[PreparedData], notes: Sequence[str] = ()) -> PreparedData:
    together = hashlib.sha256(" ".join(each.fingerprint for each in data).encode())
    each_notes = (f"{name}: {note}" for name, each in zip(names, data, strict=True) for note in each.notes)
    return PreparedData(
        train=JoinedStore([each.train for each in data]),
        val=JoinedStore([each.val for each in data]),
        tokenizer=data[0].tokenizer,
        notes=(*notes, *each_notes),
        fingerprint=together.hexdigest(),
        key="+".join(each.key for each in data),
        sources=_sources([each.sources for each in data]),
        reused=all(each.reused for each in data),
    )


def _sources(each: Sequence[Sources | None]) -> Sources | None:
    known = [sources for sources in each if sources is not None]
    if len(known) < len(each):
        return None

    def both(surveys: Sequence[Survey]) -> Survey:
        listings = tuple(chain.from_iterable(survey.listings for survey in surveys))
        paths = tuple(chain.from_iterable(survey.paths for survey in surveys))
        notes = tuple(chain.from_iterable(survey.notes for survey in surveys))
        return Survey(listings, sum(survey.taken_on_trust for survey in surveys), paths, notes)

    return Sources(both([s.path for s in known]), both([s.val_path for s in known]))


# -- the tokenizer -------------------------------------------------------------------------------------------


def _common_tokenizer(
    recipes: Sequence[DataRecipe], wanted: TrainedTokenizer, home: Path, progress: Progress, say: Say
) -> tuple[Path, str]:
    """The folder of a tokenizer trained on all sources, and what to tell about it."""
    parent = home / "tokenizers"
    clear_leftovers(parent)
    sources = [look(recipe, home, say=say) for recipe in recipes]
    key = _key(recipes, sources, wanted)
    if (note := _note_of(parent / key)) is not None:
        return parent / key / "tokenizer", note
    if any(each.taken_on_trust for each in sources):
        sources = [look(recipe, home, trust=False) for recipe in recipes]
        key = _key(recipes, sources, wanted)
    facts: dict[str, str] = {}

    def fill(folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        texts = [text_to_train_on(r, s, progress, work) for r, s in zip(recipes, sources, strict=True)]
        chat = any(text.has_chats for text in texts)
        tokenizer = train_tokenizer(_sample(texts), wanted.vocab_size, kind=wanted.kind, chat=chat)
        tokenizer.save_pretrained(folder / "tokenizer")
        size = file_size_words(sum(text.total for text in texts))
        facts["note"] = (
            f"tokenizer: {len(tokenizer)} entries from the {size} of training text of all sources"
            f"{', with ChatML as its template for conversations' if chat else ''}"
        )
        shutil.rmtree(work)

    damaged = (parent / key).exists()
    with publishing(parent):
        path = publish_folder(parent, key, fill, facts, replace=damaged)
    if path != parent / key and _note_of(parent / key) is not None:
        remove_folder(path)  # another process was first
        path = parent / key
    return path / "tokenizer", facts["note"]


def _sample(texts: Sequence[TrainingText]) -> Iterator[str]:
    """Of each source the share that it has of all text."""
    whole = max(1, sum(text.readable for text in texts))
    for text in texts:
        yield from excerpts(text.texts, text.readable, -(-SAMPLE_BYTES * text.readable // whole))


def _key(recipes: Sequence[DataRecipe], sources: Sequence[Sources], wanted: TrainedTokenizer) -> str:
    held_out = [
        each.val_path.identity if recipe.val_path else recipe.val_fraction
        for recipe, each in zip(recipes, sources, strict=True)
    ]
    read = [each.path.identity for each in sources]
    parts = [
        read,
        recipes[0].field,
        *duplicates.identity_of(recipes[0].deduplicate),
        held_out,
        READING_VERSION,
        wanted.kind,
        wanted.vocab_size,
        SAMPLING,
        version("tokenizers"),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _note_of(folder: Path) -> str | None:
    """What was told when the tokenizer was made; None where it is not there, or damaged."""
    try:
        note = read_manifest(folder).facts["note"]
        load_tokenizer(folder / "tokenizer")
    except (CheckpointError, DataError, TokenizerError, KeyError):
        return None
    return str(note)
