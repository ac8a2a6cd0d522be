"""The part of a recipe that says which data are learned from, and how they are cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from babygpt import fields
from babygpt.errors import RecipeError
from babygpt.fields import Auto
from babygpt.tokenizer_names import trained_tokenizer
from babygpt.untrusted import redacted

__all__ = ["DataRecipe", "without_secrets"]


# Of a prompt: with less, fp16 loses the gradient of its logits, and no loss scale brings that back.
_LEAST_WEIGHT = 1e-3


@dataclass(frozen=True)
class DataRecipe:
    """The data, its tokens and its windows.

    Args:
        path: text, .jsonl, .json, .csv, .tsv, .parquet and .arrow files (.gz and .zst too), folders, patterns and
            addresses of them, hub data sets, - (standard input), builtin:python (the source of this Python's own
            standard library) or builtin:prose (its manual's topics).
        weights: shares of the training windows, a number for each of `path`; none takes everything once an epoch.
        field: the column of a record that holds the text; auto finds messages, prompt and completion, or text,
            and guesses where there is none of them.
        val_path: text to validate on, in the same forms; none holds out a part of `path`.
        val_fraction: share of the documents that is held out where `val_path` names none.
        deduplicate: which training documents are left out: none, those equal to an earlier one (exact), or also
            those nearly so (near, which needs the package rensa).
        tokenizer: train:N (a new BPE of N entries) or train:unigram:N, a folder or a hub name, file: before it to
            take its tokenizer.json as it is; auto takes the model's own.
        block: tokens of one window; auto takes what suits the model.
        packing: stream joins documents and cuts windows from the whole; isolated packs whole documents that
            cannot see each other; padded gives each document a window.
        too_long: what isolated and padded do with a document longer than a window: split it into pieces that
            overlap by one token, cut it to its first window, drop it, or refuse the data.
        train_on_prompts: whether prompts, and the turns of others than the assistant, are targets as well.
        prompt_weight: how much a token counts in the training loss that stands in a prompt, 0 (nothing) to 1 (as a
            target); validation never counts it.
        global_batch_size: windows of one optimiser step, over all devices and micro-batches.
    """

    path: tuple[str, ...] = ("builtin:python",)
    weights: tuple[float, ...] = ()
    field: str = "auto"
    val_path: tuple[str, ...] = ()
    val_fraction: float = 0.05
    deduplicate: Literal["none", "exact", "near"] = "none"
    tokenizer: str = "auto"
    block: int | Auto = "auto"
    packing: Literal["stream", "isolated", "padded"] = "stream"
    too_long: Literal["split", "cut", "drop", "refuse"] = "split"
    train_on_prompts: bool = False
    prompt_weight: float = 0.0
    global_batch_size: int | Auto = "auto"

    def __post_init__(self) -> None:
        for name, words in (
            ("deduplicate", ("none", "exact", "near")),
            ("too_long", ("split", "cut", "drop", "refuse")),
        ):
            # Python code gives what it likes, and an unknown word would pass for one of these.
            if getattr(self, name) not in words:
                what = f"{getattr(self, name)!r} is none of {', '.join(words)}"
                raise RecipeError(what, where=f"data.{name}", hint="Give one of them")
        for name in ("path", "val_path"):
            object.__setattr__(self, name, fields.check_paths(f"data.{name}", getattr(self, name)))
        object.__setattr__(self, "weights", _checked_weights(self.weights))
        fields.check_text("data.field", self.field)
        fields.check_number("data.val_fraction", self.val_fraction, above=0, below=1)
        fields.check_text("data.tokenizer", self.tokenizer)
        trained_tokenizer(self.tokenizer)
        fields.check_whole("data.block", self.block, least=2, auto=True)
        self._check_prompt_weight()
        if self.too_long != "split" and self.packing == "stream":
            raise RecipeError(
                f"{self.too_long} has no meaning where data.packing is stream, which cuts windows from the whole",
                where="data.too_long",
                hint="Leave it at split, or give data.packing isolated or padded",
            )
        fields.check_whole("data.global_batch_size", self.global_batch_size, least=1, most=10**7, auto=True)

    def _check_prompt_weight(self) -> None:
        where = "data.prompt_weight"
        fields.check_number(where, self.prompt_weight, least=0, most=1)
        if 0 < self.prompt_weight < _LEAST_WEIGHT:
            raise RecipeError(
                f"{self.prompt_weight!r} is as good as nothing",
                where=where,
                hint=f"Give 0, or {_LEAST_WEIGHT} or more",
            )
        if self.prompt_weight and self.train_on_prompts:
            raise RecipeError(
                "data.train_on_prompts makes prompts targets, which count 1",
                where=where,
                hint="Give one of the two",
            )

    def check_sources(self) -> None:
        """Refuses weights that do not go with the paths.

        Apart from the other checks, since a run that goes on may be given weights alone.

        Raises:
            RecipeError: there are weights, and not one for each path, or validation data for some paths only.
        """
        if self.weights and len(self.weights) != len(self.path):
            raise RecipeError(
                f"{_count(self.weights, 'weight')} for {_count(self.path, 'path')} of data.path",
                where="data.weights",
                hint="Give one for each, or leave them out to take everything once an epoch",
            )
        if self.weights and self.val_path and len(self.val_path) != len(self.path):
            raise RecipeError(
                f"{_count(self.val_path, 'path')} for the {_count(self.path, 'source')} of data.path",
                where="data.val_path",
                hint="With data.weights give one for each, or none, which holds out a part of each",
            )


def without_secrets(data: DataRecipe) -> DataRecipe:
    """The same, its addresses as they may be written down."""
    path, val_path = (tuple(map(redacted, each)) for each in (data.path, data.val_path))
    return replace(data, path=path, val_path=val_path)


def _checked_weights(weights: Any) -> tuple[float, ...]:
    wrong = not isinstance(weights, list | tuple)
    for weight in () if wrong else weights:
        fields.check_number("data.weights", weight, least=0)
    if wrong or (weights and not any(weights)):
        raise RecipeError(
            f"{weights!r} gives nothing a share",
            where="data.weights",
            hint="Give numbers, one above 0 at least",
        )
    return tuple(weights)


def _count(things: tuple[Any, ...], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"
