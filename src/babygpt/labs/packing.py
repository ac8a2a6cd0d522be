"""Padded, stream and isolated windows: what of the work is learned from, what one document sees of another, what it costs.

The lines of a text are its documents here: short ones, as in chats. Padded gives each a window and computes the padding too.
Stream joins them, so that a window's later documents see its earlier ones. Isolated packs whole documents that do not.
"""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch

from babygpt import LLMDataModule, validate
from babygpt.labs.framework import Arm, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import Trial, curves_of, last_loss, trial

__all__ = ["LAB", "leak", "write_lines"]

_SHORTEST, _BLOCK = 20, 64


def write_lines(path: Path) -> None:
    """The lines of the manual's topics, each a document; the same bytes every time."""
    every = (line.strip() for name in sorted(topics) for line in topics[name].splitlines())
    kept = dict.fromkeys(line for line in every if len(line) >= _SHORTEST)
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in kept), encoding="utf-8")


@torch.no_grad()
def leak(made: Trial) -> float:
    """How far the first document of a window moves the logits of its last one, at most.

    The first window of the data with two documents; the first is replaced by other tokens.
    """
    end = made.data.tokenizer.eos_token_id
    for number in range(made.data.steps_per_epoch * made.data.micro_batches):
        batch = {k: v for k, v in made.data.micro_batch(number).items() if k != "labels"}
        for row in range(len(batch["input_ids"])):
            one = {k: v[row : row + 1] for k, v in batch.items()}
            first, last = _first_and_last(one, end)
            if first < last:
                return _moved(made.module, one, first, last, made.setting.vocab)
    return 0.0  # no window holds two documents


def _first_and_last(one: dict[str, torch.Tensor], end: int) -> tuple[int, int]:
    """Where the first document of a window ends and its last one begins; 0, 0 where there is one only."""
    if "position_ids" in one:
        begins = (one["position_ids"][0] == 0).nonzero().flatten().tolist()
    else:
        length = int(one["attention_mask"][0].sum())
        ends = (one["input_ids"][0, : length - 1] == end).nonzero().flatten().tolist()
        begins = [0, *(at + 1 for at in ends if at > 0)]
    return (begins[1], begins[1]) if len(begins) < 2 + ("position_ids" in one) else (begins[1] - 1, begins[1])


def _moved(module: Any, one: dict[str, torch.Tensor], first: int, last: int, vocab: int) -> float:
    changed = dict(one, input_ids=one["input_ids"].clone())
    changed["input_ids"][:, :first] = (changed["input_ids"][:, :first] + vocab // 2) % vocab
    module.eval()
    before, after = (module(**inputs).logits[:, last:] for inputs in (one, changed))
    return float((before - after).abs().max())


def run(setting: Setting) -> Measured:
    """One run, judged with each document in a window of its own."""
    with trial(setting) as made:
        lines = made.folder / "lines.jsonl"
        write_lines(lines)
        data = _data(made, lines, setting.packing)
        made = Trial(setting, made.module, data, made.folder)
        fitted = made.fit()
        judged = validate(made.module, _data(made, lines, "padded"))
        moved = leak(made)
    targets = sum(step["targets"] for step in fitted.steps)
    cells = setting.steps * setting.batch * setting.block
    timed = targets - fitted.steps[0]["targets"]
    outcomes = {
        "val_loss": judged["val_loss"],
        "filled": targets / cells,
        "cpu_us": 1e6 * fitted.cpu_seconds / timed,
        "leak": moved,
        "train_loss": last_loss(fitted),
    }
    return Measured(outcomes, curves_of(fitted, "train_loss"))


def _data(made: Trial, lines: Path, packing: str) -> LLMDataModule:
    s = made.setting
    return LLMDataModule(
        str(made.folder),
        s.batch,
        path=str(lines),
        val_fraction=s.val_fraction,
        tokenizer=f"train:{s.vocab}",
        block=s.block,
        packing=packing,
        global_batch_size=s.batch,
        seed=s.seed,
    )


LAB = Lab(
    name="packing",
    line="Padded, stream or isolated windows: work, leak and loss",
    question="What does each packing waste, what does it let documents see of each other, and what is learned?",
    protocol=(
        "Lines of text are the documents. The same random weights take the same number of steps of as many windows with"
        " each packing, and all are judged on held-out documents in windows of their own. The leak is the largest change"
        " of a document's logits when an earlier one in its window is replaced."
    ),
    arms=(
        Arm("stream", "documents joined, windows cut from the whole", {"packing": "stream"}),
        Arm("padded", "a document a window", {"packing": "padded"}),
        Arm("isolated", "whole documents that do not see each other", {"packing": "isolated"}),
    ),
    outcomes=(
        Outcome("val_loss", "loss on held-out documents alone, nats a token"),
        Outcome("filled", "targets, share of all positions computed", ratio=True),
        Outcome("cpu_us", "CPU microseconds a target", ratio=True),
        Outcome("leak", "change of a document's logits by another, at most"),
    ),
    contrasts=tuple(
        Contrast(outcome, arm, "stream")
        for outcome in ("val_loss", "filled", "cpu_us", "leak")
        for arm in ("padded", "isolated")
    ),
    run=run,
    shared=lambda scale: {"block": max(_BLOCK, scale.block)},
)
