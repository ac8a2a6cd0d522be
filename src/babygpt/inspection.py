"""What `data inspect` found, and the words for it.

A result is plain values for programs, rows of a name and a value for a page, and lines of 80 columns for a terminal.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from rich.text import Text

from babygpt.data.duplicates import Contamination
from babygpt.data.efficiency import PackingStatistics
from babygpt.data.oddities import KINDS, Oddity
from babygpt.data.view import WindowView
from babygpt.terminal import aligned, legend, window_lines

__all__ = ["Duplicates", "InspectResult", "Side"]


@dataclass(frozen=True)
class Side:
    """How much there is to train on, or to validate on.

    Attributes:
        documents, tokens, targets: of an epoch.
    """

    documents: int
    tokens: int
    targets: int


@dataclass(frozen=True)
class Duplicates:
    """Documents that are equal to an earlier one, among all that were read.

    Attributes:
        documents: how many.
        example: the id of the first of them; None if there is none.
    """

    documents: int
    example: str | None


@dataclass(frozen=True)
class InspectResult:
    """What a model will see.

    Attributes:
        data: what was read.
        model: whose tokenizer and positions were taken.
        seed: of the data order.
        step: optimiser steps completed before the one that is shown.
        steps_per_epoch: of the training text.
        step_windows, step_targets: of the whole step.
        inputs: what the model is given, with its shape and dtype.
        train, validation: how much there is.
        packing: lengths of the training documents and what the windows make of them.
        texts: documents of both whose text was looked at; what is tokenised already has none.
        unread: why no document of a run was looked at; None where they were.
        oddities: what is odd in it.
        duplicates: of both together.
        contamination: validation text that is trained on; None where all tokens would have to be fetched for it.
        notes: what was said of the data when they were prepared.
        windows: the first of the step.
        sources: of a mixture, the source of each window of the step; empty where nothing is mixed.
        ids: whether people are shown the ids.
        html: the page that was written.
        prompt_weight: how much prompts count.
        step_prompts, prompts: tokens that count so, of the whole step and of an epoch; none of them is a target.
    """

    data: tuple[str, ...]
    model: str
    seed: int
    step: int
    steps_per_epoch: int
    step_windows: int
    step_targets: int
    inputs: tuple[str, ...]
    train: Side
    validation: Side
    packing: PackingStatistics
    texts: int
    oddities: tuple[Oddity, ...]
    duplicates: Duplicates
    contamination: Contamination | None
    notes: tuple[str, ...]
    windows: tuple[WindowView, ...]
    sources: tuple[str, ...] = ()
    unread: str | None = None
    ids: bool = False
    html: str | None = None
    prompt_weight: float = 0.0
    step_prompts: int = 0
    prompts: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        plain = {**vars(self), "packing": self.packing.to_dict()}
        plain["windows"] = [window.to_dict() for window in self.windows]
        plain["oddities"] = {each.kind: asdict(each) for each in self.oddities}
        for name in ("train", "validation", "duplicates", "contamination"):
            plain[name] = asdict(plain[name]) if plain[name] is not None else None
        del plain["ids"]
        return plain

    def lines(self) -> list[str | Text]:
        """For people, in 80 columns where no name or sentence is longer."""
        lines: list[str | Text] = [*aligned(self.step_rows()), "", *legend(self.prompt_weight)]
        for number, window in enumerate(self.windows, 1):
            lines += ["", Text(self.window_heading(number), style="bold")]
            lines += window_lines(window, ids=self.ids)
        return [*lines, "", *aligned(self.count_rows())]

    def window_heading(self, number: int) -> str:
        """The line above the n-th window, counted from 1."""
        window = self.windows[number - 1]
        prompts = f", {window.prompts:,} of prompts" if self.prompt_weight else ""
        counts = f"{window.targets:,} targets{prompts}, {window.masked:,} masked, {window.padding:,} padding"
        source = f", {self.sources[number - 1]}" if self.sources else ""
        return f"window {number} of {self.step_windows:,} (no. {window.number:,}{source}): {counts}"

    def step_rows(self) -> list[tuple[str, str]]:
        """What is shown, as (name, value)."""
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        prompts = f", {self._of_prompts(self.step_prompts)}" if self.prompt_weight else ""
        mixed = ", ".join(f"{count:,} of {name}" for name, count in Counter(self.sources).most_common())
        return [
            ("data", ", ".join(self.data)),
            ("model", self.model),
            (
                "step",
                f"{self.step:,} (epoch {epoch}, {inside:,} of {self.steps_per_epoch:,}), seed {self.seed}",
            ),
            ("in the step", f"{self.step_windows:,} windows, {self.step_targets:,} targets{prompts}"),
            *((("mixed", mixed),) if mixed else ()),
            *(("model gets" if not n else "", text) for n, text in enumerate(self.inputs)),
        ]

    def _of_prompts(self, tokens: int) -> str:
        return f"{tokens:,} tokens of prompts that count {self.prompt_weight:g} each"

    def count_rows(self) -> list[tuple[str, str]]:
        """What the data hold, as (name, value)."""
        rows = [
            (name, f"{side.documents:,} documents, {side.tokens:,} tokens, {side.targets:,} targets")
            for name, side in (("training", self.train), ("validation", self.validation))
        ]
        packing = [line.strip().partition("  ") for line in self.packing.lines()]
        rows += [(name, value) for name, _, value in packing if name != "documents"]
        if self.prompt_weight:
            rows.append(("prompts", f"{self._of_prompts(self.prompts)}, in validation nothing"))
        if self.packing.tokens_left_out:
            whole = f"{self.packing.documents_left_out:,} whole documents"
            rows.append(("left out", f"{self.packing.tokens_left_out:,} tokens and {whole} are in no window"))
        copies, shared = self.duplicates, self.contamination
        example = f", such as {copies.example}" if copies.example else ""
        unread = f"not looked for: {self.unread}" if self.unread else ""
        equal = f"{copies.documents:,} of all documents equal an earlier one{example}"
        rows.append(("duplicates", unread or equal))
        if shared is None:
            rows.append(("shared text", "not looked for: the corpus would be fetched whole"))
        else:
            example = f", such as document {shared.example:,}" if shared.example is not None else ""
            rows.append(("shared text", shared.in_words() + example))
        rows += [("odd", f"{KINDS[each.kind][0]}: {each.in_words()}") for each in self.oddities]
        if not self.oddities:
            found = "nothing was found" if self.texts else "not looked for: the data are tokenised already"
            rows.append(("odd", unread or found))
        rows += [("note", note) for note in self.notes]
        return [*rows, *((("page", self.html),) if self.html else ())]
