"""Padded, stream and isolated windows: what is learned from, what documents see of each other, what it costs.

The lines of a text are its documents here: short ones, as in chats. Padded gives each a window and computes the
padding too. Stream joins them, so that a window's later documents see its earlier ones. Isolated packs whole
documents that do not.
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
    """How far the first document of a window moves the logits of its second one, at most; 0 where none holds two.

    The first document is replaced by other tokens.
    """
    end = made.data.tokenizer.eos_token_id
    for number in range(made.data.steps_per_epoch * made.data.micro_batches):
        batch = made.data.micro_batch(number)
        for row in range(len(batch["input_ids"])):
            one = {name: values[row : row + 1] for name, values in batch.items() if name != "labels"}
            begin = _second(one, end)
            if begin:
                return _moved(made.module, one, begin, made.setting.vocab)
    return 0.0


def _second(one: dict[str, torch.Tensor], end: int) -> int:
    """Where the second document of a window begins; 0 where there is none."""
    if "position_ids" in one:
        begins = (one["position_ids"][0] == 0).nonzero().flatten().tolist()
        return int(begins[1]) if len(begins) > 2 else 0  # what is left at the end is a piece of its own
    length = int(one["attention_mask"][0].sum())
    ends = (one["input_ids"][0, : length - 1] == end).nonzero().flatten().tolist()
    return int(ends[0]) + 1 if ends else 0


def _moved(module: Any, one: dict[str, torch.Tensor], begin: int, vocab: int) -> float:
    changed = dict(one, input_ids=one["input_ids"].clone())
    changed["input_ids"][:, :begin] = (changed["input_ids"][:, :begin] + vocab // 2) % vocab
    module.eval()
    # The second document has a token at the least, and its end-of-text token.
    before, after = (module(**inputs).logits[:, begin : begin + 2] for inputs in (one, changed))
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
        "Lines of text are the documents. The same random weights take the same number of steps of as many"
        " windows with"
        " each packing, and all are judged on held-out documents in windows of their own. The leak is the"
        " largest change"
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
