"""A data recipe to two token stores, training and validation, built once and kept in a cache.

1. Look at what is behind the paths, and load the tokenizer unless it is to be trained.
2. Both and the settings decide a name. Under that name the same data are never tokenised twice, whatever the files
   are called and wherever they lie.
3. Build what is not there (`building`), publish the folder whole. Of several processes that want the same one builds,
   and the others wait; a process that is killed is gone on from.

What is there is opened by `prepared`. Building trusts no memory: every file is read again for the name, and looked at
once more at the end, so that no store holds what its name does not say.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from babygpt.data import duplicates
from babygpt.data.arrow import FORMAT_VERSION
from babygpt.data.building import Builder, TrainingText, changed
from babygpt.data.cache import building, clear_leftovers, default_cache, publishing
from babygpt.data.choosing import Progress
from babygpt.data.excerpts import SAMPLING
from babygpt.data.identity import Listing, Survey, changed_meanwhile
from babygpt.data.imports import Imported, all_tokenised
from babygpt.data.opening import corpora_among, open_corpus
from babygpt.data.prepared import PreparedData, Sources, look, open_prepared
from babygpt.data.prompts import check_prompts
from babygpt.data.reading import READING_VERSION, Texts
from babygpt.data.sources import Say, check_field
from babygpt.data.tokenised import is_tokenised
from babygpt.data.tokenizers import load_tokenizer, tokenizer_identity, tokenizer_source
from babygpt.disk import plain_errors
from babygpt.errors import InputError, RecipeError, SpaceError
from babygpt.files import publish_filled
from babygpt.recipe import DataRecipe
from babygpt.tokenizer_names import TrainedTokenizer
from babygpt.untrusted import redacted

__all__ = ["prepare", "refuse_no_tokenizer", "text_to_train_on"]


def prepare(
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
    """Build the stores, or find them in the cache. Safe for several processes at once, and to be killed in.

    A path that names a corpus is opened where it lies, and nothing is built.

    Args:
        recipe: paths, field, split and tokenizer; block, packing and batch size do not matter here.
        model_name: whose tokenizer `auto` means; for `preset:NAME` one is trained, as large as the preset's
            vocabulary.
        revision: of a hub model.
        cache: folder of the cache; `default_cache()` if None.
        progress: called with (stage, documents done, documents in all or 0).
        say: told each note as it arises, and what is of no interest later.
        prepared_as: the key of a store to take, if it is in the cache, without looking at the paths: that of a
            run that goes on.
        cache_gb: most gigabytes of a corpus elsewhere that are kept on the disk; None decides by what is free.

    Raises:
        DataError: something is missing, malformed or too short, or changes while it is read.
        TokenizerError, ModelError: the tokenizer is missing or unfit.
        RecipeError: prompts would count that cannot be told from what is to count nothing.
        SpaceError: the disk is full.
    """
    say = say or (lambda text: None)
    home = cache or default_cache()
    clear_leftovers(home / "data")
    data = open_prepared(home, prepared_as) if prepared_as is not None else None
    if data is None and (data := _of_corpus(recipe, home, model_name, revision, cache_gb)) is not None:
        for note in data.notes:
            say(note)
    if data is None:
        data = _found_or_built(recipe, home, model_name, revision, progress, say)
    if (note_on_prompts := check_prompts(recipe, data.masked, data.withheld)) is None:
        return data
    say(note_on_prompts)
    return replace(data, notes=(*data.notes, note_on_prompts))


def _found_or_built(
    recipe: DataRecipe,
    home: Path,
    model_name: str,
    revision: str | None,
    progress: Progress | None,
    say: Say,
) -> PreparedData:
    """Stores of what is no corpus; arguments and errors as of `prepare`."""
    imported = all_tokenised([*recipe.path, *recipe.val_path], recipe.field)
    if not imported:
        check_field(recipe.field, [*recipe.path, *recipe.val_path])
    source = tokenizer_source(recipe.tokenizer, model_name)
    tokenizer = None
    if isinstance(source, str):
        tokenizer = load_tokenizer(source, revision=revision if recipe.tokenizer == "auto" else None)
    if imported and tokenizer is None:
        raise _no_tokenizer()
    if imported and recipe.deduplicate == "near":
        raise RecipeError(
            "near duplicates are looked for in text, and the data are tokenised already",
            where="data.deduplicate",
            hint="Use exact, or thin the text before it is tokenised",
        )
    sources = look(recipe, home, say=say)
    key = _key(recipe, sources, source, tokenizer, imported)
    needs = recipe.prompt_weight > 0
    if (found := open_prepared(home, key, needs_withheld=needs)) is not None:
        return _reused(replace(found, notes=(*found.notes, _why_reused(found, sources))), sources, say)
    if needs and open_prepared(home, key) is not None:
        say("tokenised again: an earlier version did not note what is to count nothing")
    if sources.taken_on_trust:
        sources = look(recipe, home, trust=False)
        key = _key(recipe, sources, source, tokenizer, imported)
    builder = Builder(
        _read_from(recipe, sources),
        Imported(tokenizer) if imported and tokenizer is not None else _texts(recipe),
        source if isinstance(source, TrainedTokenizer) else None,
        tokenizer,
        progress or (lambda stage, done, total: None),
        say,
    )
    with publishing(home / "data"):
        return _built(home, key, builder, sources, say, needs)


def _of_corpus(
    recipe: DataRecipe, home: Path, model_name: str, revision: str | None, cache_gb: float | None
) -> PreparedData | None:
    """What a recipe's corpus holds; None where it names none."""
    corpora = corpora_among((*recipe.path, *recipe.val_path), home)
    if not any(corpora):
        return None
    corpus = corpora[0]
    if len(recipe.path) > 1 or corpus is None:
        raise RecipeError(
            "a corpus is split and tokenised for itself, and does not go with other data in one",
            where="data.path",
            hint="Give it alone, or mix with data.weights",
        )
    found = open_corpus(recipe, corpus, home, model_name=model_name, revision=revision, cache_gb=cache_gb)
    listing = Listing(redacted(recipe.path[0]), "corpus", fingerprint=corpus.fingerprint)
    return PreparedData(
        found.train,
        found.val,
        found.tokenizer,
        (found.note, *corpus.notes),
        corpus.fingerprint,
        corpus.key,
        Sources(Survey((listing,), 0, recipe.path, ()), Survey((), 0, (), ())),
        withheld=corpus.withheld,
    )


def refuse_no_tokenizer(paths: Sequence[str], field: str) -> None:
    """Refuses to train a tokenizer on what holds ids.

    Raises:
        RecipeError: one of the paths does.
        DataError: one is not there.
    """
    if any(is_tokenised(path, field) for path in paths):
        raise _no_tokenizer()


def _no_tokenizer() -> RecipeError:
    return RecipeError(
        "the data are tokenised already, and not said with what",
        where="data.tokenizer",
        hint="Name the tokenizer they were made with: a folder or a hub name",
    )


def _built(home: Path, key: str, builder: Builder, sources: Sources, say: Say, needs: bool) -> PreparedData:
    """Builds and publishes, unless another process has just done it, with all that `needs` says has to be known."""
    parent = home / "data"
    with (
        plain_errors(parent),
        building(
            parent, key, lambda: say("another process is preparing the same data; waiting for it")
        ) as work,
    ):
        try:
            if (theirs := open_prepared(home, key, needs_withheld=needs)) is not None:
                shutil.rmtree(work)
                return _reused(theirs, sources, say)
            for note in (*sources.path.notes, *sources.val_path.notes):
                say(note)
            folder = builder.build(work)
            file = changed_meanwhile((*sources.path.listings, *sources.val_path.listings))
            if file is not None:
                raise changed(file)
            damaged = (parent / key).exists()  # and could not be opened
            facts = {"notes": builder.notes, "withheld": builder.withheld}
            publish_filled(folder, parent / key, facts, replace=damaged)
            built = open_prepared(home, key)
        except SpaceError:
            raise  # with room it can go on
        except InputError:
            shutil.rmtree(work)
            raise
        shutil.rmtree(work)
    assert built is not None
    notes = built.notes
    if builder.went_on_from:
        notes = (
            *notes,
            f"an interrupted preparation was gone on with, after {builder.went_on_from:,} documents",
        )
    return _told(replace(built, notes=notes, reused=False), sources)


def _told(data: PreparedData, sources: Sources) -> PreparedData:
    """With what stood behind the paths, and what is to be said of it first."""
    notes = (*sources.path.notes, *sources.val_path.notes, *data.notes)
    return replace(data, sources=sources, notes=notes)


def _reused(data: PreparedData, sources: Sources, say: Say) -> PreparedData:
    """The same, of data that were there; told now, since nothing was while they were built."""
    told = _told(data, sources)
    for note in told.notes:
        say(note)
    return told


def _read_from(recipe: DataRecipe, sources: Sources) -> DataRecipe:
    """The recipe with the paths to read: the copies in the cache of what lies elsewhere."""
    return replace(recipe, path=sources.path.paths, val_path=sources.val_path.paths)


def _texts(recipe: DataRecipe) -> Texts:
    return Texts(recipe.field, recipe.train_on_prompts)


def _why_reused(found: PreparedData, sources: Sources) -> str:
    files, trusted = sources.num_files, sources.taken_on_trust
    looked = f" ({trusted:,} of {files:,} files were not touched and not read again)" if trusted else ""
    return (
        f"tokenised data reused from {found.folder}: the content of the data, the tokenizer and the settings are"
        f" those it was made from{looked}"
    )


def text_to_train_on(recipe: DataRecipe, sources: Sources, progress: Progress, work: Path) -> TrainingText:
    """The documents that are not held out, for a tokenizer to be trained on; `work` holds what is known of them."""
    origin, recipe = _texts(recipe), _read_from(recipe, sources)
    return Builder(recipe, origin, None, None, progress, lambda note: None).text_to_train_on(work)


def _key(
    recipe: DataRecipe,
    sources: Sources,
    source: str | TrainedTokenizer,
    tokenizer: PreTrainedTokenizerBase | None,
    imported: bool,
) -> str:
    if isinstance(source, TrainedTokenizer):
        which = f"train:{source.kind}:{source.vocab_size}:{SAMPLING}:{version('tokenizers')}"
    else:
        assert tokenizer is not None
        which = tokenizer_identity(tokenizer)
    held_out = sources.val_path.identity if recipe.val_path else recipe.val_fraction
    less = duplicates.identity_of(recipe.deduplicate)
    parts = [
        FORMAT_VERSION,
        sources.path.identity,
        recipe.field,
        held_out,
        which,
        recipe.train_on_prompts,
        *less,
        "imported" if imported else READING_VERSION,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
