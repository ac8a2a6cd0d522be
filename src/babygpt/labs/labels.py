"""Where the targets come from: the shift, and what becomes of a model whose labels are shifted wrongly.

A causal model's labels are its own input: the loss holds the logits at position t against the label at t + 1. Labels
that are made to cancel that shift ask for the token that is already there, which is learned in no time and worth
nothing; labels that are shifted before the model shifts them again ask for the token after the next. The loss that
is trained on shows neither. What both are judged by is the loss on the next token of held-out text.
"""

from __future__ import annotations

from typing import Any

import torch

from babygpt import BabyGPT
from babygpt.data.labels import IGNORED
from babygpt.labs.framework import Arm, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import Trial, measured, trial

__all__ = ["LAB", "Relabelled", "double", "unshifted"]

_SHOWN = 8


def unshifted(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Labels that ask position t for token t, int64 [windows, block]."""
    labels = torch.full_like(batch["labels"], IGNORED)
    labels[:, 1:] = batch["input_ids"][:, :-1]
    return labels


def double(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Labels that ask position t for token t + 2, int64 [windows, block]."""
    labels = torch.full_like(batch["labels"], IGNORED)
    labels[:, :-1] = batch["labels"][:, 1:]
    return labels


class Relabelled(BabyGPT):
    """Trains on labels that were tampered with; validates on the right ones."""

    @staticmethod
    def relabel(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The labels to train on."""
        return batch["labels"]

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """A step on the labels that `relabel` makes."""
        return super().training_step({**batch, "labels": self.relabel(batch)}, batch_idx)


class Unshifted(Relabelled):
    """Asks for the token that is there."""

    relabel = staticmethod(unshifted)


class Double(Relabelled):
    """Asks for the token after the next."""

    relabel = staticmethod(double)


KINDS: dict[str, type[Relabelled]] = {"right": Relabelled, "unshifted": Unshifted, "double": Double}


def run(setting: Setting) -> Measured:
    """One run."""
    with trial(setting, KINDS[setting.variant]) as made:
        found = measured(made.fit())
        return Measured(found.outcomes, found.curves, {f"Targets, {setting.arm}": _shift(made)})


def _shift(made: Trial) -> list[list[str]]:
    """Token by token: what a position sees last, and what it is asked for."""
    batch = made.data.micro_batch(0)
    module: Any = made.module
    ids, labels = batch["input_ids"][0], module.relabel(batch)[0]
    rows = [["position", "sees last", "is asked for"]]
    for t in range(_SHOWN):
        target = int(labels[t + 1])
        asked = "nothing" if target == IGNORED else repr(made.data.tokenizer.decode([target]))
        rows.append([str(t), repr(made.data.tokenizer.decode([int(ids[t])])), asked])
    return rows


LAB = Lab(
    name="labels",
    line="Where the targets come from, and what a wrong shift does",
    question="What do labels do that are not shifted, or shifted twice?",
    protocol=(
        "The same random weights are trained on the same windows with the labels right, unshifted (position t is"
        " asked"
        " for token t) and doubly shifted (for token t + 2). All are validated on the next token."
    ),
    arms=(
        Arm("right", "position t is asked for token t + 1", {"variant": "right"}),
        Arm("unshifted", "position t is asked for token t, which it sees", {"variant": "unshifted"}),
        Arm("double", "position t is asked for token t + 2", {"variant": "double"}),
    ),
    outcomes=(
        Outcome("val_loss", "loss on the next token of held-out text, nats"),
        Outcome("train_loss", "the loss that is trained on, nats a target"),
    ),
    contrasts=tuple(
        Contrast(outcome, arm, "right")
        for outcome in ("val_loss", "train_loss")
        for arm in ("unshifted", "double")
    ),
    run=run,
    plotted=(
        ("train_loss", "step", "nats a target"),
        ("val_loss", "step", "nats a token"),
    ),
)
