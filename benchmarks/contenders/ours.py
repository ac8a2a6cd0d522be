"""BabyGPT by `babygpt train` (`command`, `command-fp32`, `command-half`) or L.Trainer (`lightning`, `lightning-bf16`).

`command-half` is given the micro-batch, and computes every second block again.

The command validates and saves only at the run's end here, since the others do neither in the measured
region. Both doors read the text; that they see the very ids of the other contenders is checked.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from probe import Spec, StepProbe, autocasts, count_parameters, hugging_face_loss, read_spec, report
from transformers import AutoModelForCausalLM

from babygpt import BabyGPT, LLMDataModule
from babygpt.cli import main as babygpt

_OUT = Path("out")


@dataclass(frozen=True)
class Trained:
    """What a door hands back: the trained model and how it computed."""

    model: Any
    arithmetic: str


def command(spec: Spec, **machine: Any) -> Trained:
    """`babygpt train` in this process, so that the probe sees its steps.

    Args:
        spec: the run's task.
        machine: flags of that group.
    """
    arguments = {
        "model.name": spec.model,
        "data.path": spec.work / "train.txt",
        "data.val_path": spec.work / "held_out.txt",
        "data.block": spec.block,
        "data.global_batch_size": spec.batch,
        "optim.name": "adamw",
        "optim.lr": spec.learning_rate,
        "budget.steps": spec.steps,
        "validate.every_steps": spec.steps,
        "checkpoint.every_steps": spec.steps,
        "seed": spec.seed,
        **{f"machine.{name}": value for name, value in machine.items()},
        "out": _OUT,
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    code = babygpt(["train", *words])
    if code:
        raise SystemExit(code)
    plan = json.loads((_OUT / "machine.json").read_text(encoding="utf-8"))
    plan = plan.get("plan", plan)
    model = AutoModelForCausalLM.from_pretrained(_OUT / "checkpoints" / "last")
    how = [autocasts(plan["precision"] == "bf16-mixed"), f"micro-batch {plan['micro_batch']}"]
    return Trained(model, ", ".join([*how, *(["compiled"] if plan["compile"] else [])]))


def lightning(spec: Spec, precision: str | None) -> Trained:
    """Plain `L.Trainer` on `BabyGPT` and `LLMDataModule`."""
    model = BabyGPT(model_name=spec.model, lr=spec.learning_rate)
    trainer = L.Trainer(
        max_steps=spec.steps,
        accelerator="auto",
        devices=1,
        accumulate_grad_batches=spec.accumulate,
        precision=precision,  # type: ignore[arg-type]
    )
    trainer.fit(model, datamodule=data_of(spec))
    return Trained(model.model, autocasts(precision == "bf16-mixed"))


def data_of(spec: Spec) -> LLMDataModule:
    """The data module on the prepared text."""
    return LLMDataModule(
        model_name=spec.model,
        batch_size=spec.micro_batch,
        path=str(spec.work / "train.txt"),
        val_path=str(spec.work / "held_out.txt"),
        block=spec.block,
        seed=spec.seed,
    )


def check_ids(spec: Spec) -> None:
    """Stops unless the text gave the ids that the other contenders read; the store is found in the cache."""
    store = data_of(spec).prepared.train
    expected = np.load(spec.work / "train.npy")
    if store.num_tokens != len(expected) or not np.array_equal(store.ids(0, store.num_tokens), expected):
        raise SystemExit("the text gave other token ids than the other contenders read")


def main() -> None:
    """Trains for the spec's steps and reports."""
    spec = read_spec()
    os.environ["BABYGPT_CACHE"] = str(spec.work / "babygpt-cache")
    probe = StepProbe(spec)
    doors = {
        "command": lambda: command(spec),
        "command-fp32": lambda: command(spec, precision="32-true"),
        "command-half": lambda: command(spec, micro_batch=spec.micro_batch, activation_checkpointing=2),
        "lightning": lambda: lightning(spec, None),
        "lightning-bf16": lambda: lightning(spec, "bf16-mixed"),
    }
    trained = doors[spec.variant]()
    check_ids(spec)
    model = trained.model.to(torch.float32)
    report(
        spec,
        probe,
        held_out=hugging_face_loss(model, spec),
        parameters=count_parameters(model),
        arithmetic=trained.arithmetic,
    )


if __name__ == "__main__":
    main()
