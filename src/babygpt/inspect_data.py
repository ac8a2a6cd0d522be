"""The verb `data inspect`: settings in, the batches that a model will see and what is odd in the data out.

1. The recipe is resolved as `train` does, or read from a run's folder; nothing is written there.
2. The step's batch is made by the very module that trains, and its first windows are taken apart.
3. Every document is read once more for what is odd in it, and validation text is looked for in the training ids.

Cost: of 3, about 30 MB of text and 9 million tokens a second on one core; what `train` would prepare is prepared, and
is found in the cache when it does.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from babygpt import pages, planner
from babygpt.checkpoints import discover
from babygpt.data import changes
from babygpt.data.ahead import is_streamed
from babygpt.data.arrow import TokenStore
from babygpt.data.cache import default_cache
from babygpt.data.duplicates import contamination, repeated
from babygpt.data.efficiency import packing_statistics
from babygpt.data.imports import Imported
from babygpt.data.mixture import Mixture
from babygpt.data.module import LLMDataModule
from babygpt.data.oddities import Oddity, Tally, text_of
from babygpt.data.opening import corpora_among
from babygpt.data.prepared import PreparedData
from babygpt.data.sources import content_hash, read_documents
from babygpt.data.tokenised import is_tokenised
from babygpt.data.view import view_of
from babygpt.disk import expanded
from babygpt.errors import DataError
from babygpt.files import check_file_place, write_text_atomic
from babygpt.inspection import Duplicates, InspectResult, Side
from babygpt.prepare import PreparationView
from babygpt.recipe import DataRecipe, Recipe
from babygpt.run_folder import recipe_of
from babygpt.settings import InspectSettings
from babygpt.training.dial import note_on_size, provisional
from babygpt.training.parts import build_data, config_of, resolved
from babygpt.training.spikes import is_undone, read_rollbacks
from babygpt.training.weights import read_changes
from babygpt.untrusted import redacted

__all__ = ["inspect_data"]

Progress = Callable[[str, int, int], None]


def inspect_data(settings: InspectSettings) -> InspectResult:
    """Shows a step's first windows and counts what the data hold.

    Raises:
        DataError, TokenizerError, ModelError, RecipeError: the data cannot be trained on, or no token of the step is a
            target.
        CheckpointError: `resume` names no run folder.
    """
    page = None if settings.html is None else expanded(settings.html)
    if page is not None:
        check_file_place(page, "--html")
    with PreparationView(Console(stderr=True)) as progress:
        module, step, notes = _module_of(settings, progress)
        if module.step_weight(step) == 0:
            raise _no_target(module.recipe, f"no token of step {step} is a target")
        result = replace(_result(settings, module, step, progress), notes=notes)
    if page is not None:
        result = replace(result, html=str(page))
        write_text_atomic(page, pages.inspect_page(result))
    return result


# -- the step's batch ----------------------------------------------------------------------------------------


def _module_of(settings: InspectSettings, progress: Progress) -> tuple[LLMDataModule, int, tuple[str, ...]]:
    """The data module, set up for whole steps at once; the step; and what was said of the data."""
    if settings.resume is not None:
        out = expanded(settings.resume)
        recipe, step = _of_run(out)
        key, notes, rollbacks, reweighted = (
            changes.store_key(out),
            None,
            read_rollbacks(out),
            read_changes(out),
        )
    else:
        recipe, prepared = _resolved(settings.recipe, progress)
        step, key, notes, rollbacks, reweighted = 0, prepared.key, prepared.notes, [], []
    size = int(recipe.data.global_batch_size)
    module = build_data(
        recipe, size, progress=progress, prepared_as=key, rollbacks=rollbacks, reweighted=reweighted
    )
    try:
        module.setup()
    except DataError as error:
        if error.where == "data" and "a target" in error.what:
            raise _no_target(recipe.data, error.what) from None
        raise
    step = step if settings.step is None else settings.step
    said = module.prepared.notes if notes is None else notes
    shown = note_on_size(settings.recipe) if settings.resume is None else ()
    return module, step, (*shown, *said, *module.notes_on_length)


def _resolved(recipe: Recipe, progress: Progress) -> tuple[Recipe, PreparedData]:
    """The recipe as a run on this computer would begin with it, and its data."""
    recipe = provisional(recipe)
    data = build_data(recipe, batch_size=1, progress=progress)
    parameters = planner.parameters_of(config_of(recipe, data))
    return resolved(recipe, data, parameters), data.prepared


def _of_run(out: Path) -> tuple[Recipe, int]:
    """The recipe of a run, its data where they lie now, and its completed steps."""
    recipe = recipe_of(out)
    rollbacks = read_rollbacks(out)
    found = [each.step for each in discover(out / "checkpoints") if not is_undone(each, rollbacks)]
    data = changes.unchanged(out, recipe.data, recipe.data, ())
    return replace(recipe, data=data), max(found, default=0)


def _result(settings: InspectSettings, module: LLMDataModule, step: int, progress: Progress) -> InspectResult:
    """Everything but the page."""
    batch = module.micro_batch(step * module.micro_batches)
    numbers, order = module.windows_of(step), module.plan.order
    mixed = order.sources_of(module.data_step(step)) if isinstance(order, Mixture) else ()
    store, windows = module.prepared.train, module.plan.windows
    views = [
        view_of(batch, row, store, windows, int(number), module.tokenizer)
        for row, number in enumerate(numbers[: settings.windows])
    ]
    texts, oddities, duplicates, unread = _looked(settings, module, progress)
    return InspectResult(
        data=tuple(map(redacted, module.recipe.path)),
        model=module.model_name,
        seed=module.seed,
        step=step,
        steps_per_epoch=module.steps_per_epoch,
        step_windows=len(numbers),
        step_targets=module.step_targets(step),
        inputs=tuple(f"{name} {str(t.dtype)[6:]} {list(t.shape)}" for name, t in batch.items()),
        train=_side(store),
        validation=_side(module.prepared.val),
        packing=packing_statistics(store.offsets, windows, module.recipe.packing),
        texts=texts,
        unread=unread,
        oddities=oddities,
        duplicates=duplicates,
        contamination=None
        if is_streamed(store)
        else contamination(
            store, module.prepared.val, lambda done, all_: progress("shared text", done, all_)
        ),
        notes=(),
        windows=tuple(views),
        sources=tuple(module.sources[int(source)] for source in mixed),
        ids=settings.ids,
        prompt_weight=module.plan.prompt_weight,
        step_prompts=module.step_prompts(step),
        prompts=windows.predicted() - int(windows.targets.sum()) if module.plan.prompt_weight else 0,
    )


def _looked(
    settings: InspectSettings, module: LLMDataModule, progress: Progress
) -> tuple[int, tuple[Oddity, ...], Duplicates, str | None]:
    """As `_look_at_documents`, and why none was looked at."""
    nothing = (0, (), Duplicates(0, None))
    recipe = module.recipe
    if any(corpora_among(recipe.path, default_cache())):
        return *nothing, "a corpus holds ids, not text"
    try:
        if settings.resume is not None and "-" in (*recipe.path, *recipe.val_path):
            raise DataError("standard input cannot be read a second time")
        return *_look_at_documents(recipe, module.tokenizer, progress), None
    except DataError as error:
        if settings.resume is None:
            raise
        return *nothing, error.what  # a run needs only its tokenised text


def _side(store: TokenStore) -> Side:
    return Side(store.num_documents, store.num_tokens, store.manifest.num_targets)


# -- the documents -------------------------------------------------------------------------------------------


def _all_documents(
    recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, empty: Callable[[str], None] | None = None
) -> Iterator[tuple[str, int, str | None]]:
    """Id, content hash and text of each document; what is tokenised already has no text.

    `empty` is told the place of what is no document for want of text.
    """
    for path in (*recipe.path, *recipe.val_path):
        if is_tokenised(path, recipe.field):
            for number, seen in enumerate(Imported(tokenizer).seen([path], lambda _: None)):
                yield f"{path}:{number}", seen.content_hash, None
        else:
            for document in read_documents([path], field=recipe.field, empty=empty):
                yield document.id, content_hash(document), text_of(document)


def _look_at_documents(
    recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> tuple[int, tuple[Oddity, ...], Duplicates]:
    """How many documents have text, what is odd in it, and the duplicates among all."""
    tally, hashes, texts = Tally(), array("Q"), 0
    for number, (name, digest, text) in enumerate(_all_documents(recipe, tokenizer, tally.pass_over)):
        if text is not None:
            tally.add(name, text)
            texts += 1
        hashes.append(digest)
        progress("looking", number + 1, 0)
    copies = np.flatnonzero(repeated(np.frombuffer(hashes, dtype=np.uint64)))
    # Ids are not kept for all: the one is read again.
    first = next(islice(_all_documents(recipe, tokenizer), int(copies[0]), None))[0] if len(copies) else None
    return texts, tally.found, Duplicates(len(copies), first)


def _no_target(recipe: DataRecipe, what: str) -> DataError:
    """The error for data that teach nothing, with the cause as far as the documents show it."""
    documents, conversations, roles = 0, 0, Counter[str]()
    is_corpus = any(corpora_among(recipe.path, default_cache()))
    texts = [path for path in recipe.path if not (is_corpus or is_tokenised(path, recipe.field))]
    for document in read_documents(texts, field=recipe.field) if texts else ():
        documents += 1
        conversations += document.messages is not None
        roles.update(str(message.get("role")) for message in document.messages or ())
    if conversations and not roles["assistant"]:
        there = " and ".join(sorted(roles))
        cause = f"not one of {conversations:,} conversations has an assistant's turn, only {there}"
        hint = "Give conversations in which the role assistant answers"
    elif not documents:
        cause = "the labels or masks of the tokenised data mark nothing, or it is cut off"
        hint = "Give data whose masks mark targets, or a larger data.block"
    else:
        cause = f"what {documents:,} documents would teach is empty, or cut off"
        hint = "Give answers with text, or a larger data.block"
    return DataError(f"{what}: {cause}", where=redacted(", ".join(recipe.path)), hint=hint)
