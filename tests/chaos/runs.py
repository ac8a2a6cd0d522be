"""Runs of the command for the chaos tests: their arguments, the programs that children run, what runs must share."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import GPT2Model

from babygpt.cli import main
from babygpt.data import building
from publishing import Shim

STEPS = 90
# Neither recipe nor plan remember these: a resumed run has to be given them again.
MACHINE = {"machine.precision": "32-true", "machine.device": "cpu", "machine.micro_batch": 2}


def arguments(fields: dict[str, Any]) -> list[str]:
    """`train` with these fields; None is left out, and null means null."""
    given = {name: value for name, value in fields.items() if value is not None}
    return ["train", *(part for name, value in given.items() for part in (f"--{name}", str(value)))]


def recipe(model: Path, data: Path, **more: Any) -> dict[str, Any]:
    """A small run with dropout and accumulation that crosses epochs; keyword `optim__lr=1` is optim.lr."""
    fields = {
        "model.name": model,
        "model.dropout": 0.1,
        "data.path": data,
        "data.block": 32,
        "data.global_batch_size": 4,
        "data.val_fraction": 0.2,
        "optim.lr": 0.003,
        "budget.steps": STEPS,
        "validate.every_steps": STEPS,
        **MACHINE,
    }
    return fields | {name.replace("__", "."): value for name, value in more.items()}


# -- in a child ------------------------------------------------------------------------------------------------------


def train(args: list[str], steps: str) -> int:
    """The command; after each optimiser step of this process the file `steps` is a byte longer."""
    descriptor = os.open(steps, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    register_optimizer_step_post_hook(lambda *_: os.write(descriptor, b"."))
    return main(args)


def prepare(args: list[str], cache: str) -> int:
    """The command with a cache of its own; positions are written down every 250,000 tokens, seconds apart here."""
    os.environ["BABYGPT_CACHE"] = cache
    building._COMMIT_TOKENS = 250_000
    return main(args)


def armed(args: list[str], arm: dict[str, Any]) -> int:
    """The command, with the shim at work; prints the number of operations."""
    shim = Shim(arm)
    code = main(args)
    shim.disarm()
    print(f"operations {shim.count}", flush=True)
    return code


def train_with_events(args: list[str], events: list[tuple[int, int | str]]) -> int:
    """The command; at the micro-batches given, counted from 0 here, a signal comes or a loss is no number."""
    at = {index: [what for i, what in events if i == index] for index, _ in events}
    seen = [-1]

    def before(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, GPT2Model) and module.training:
            seen[0] += 1
            for what in at.get(seen[0], ()):
                if what != "nan":
                    os.kill(os.getpid(), int(what))

    def after(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, GPT2Model) and module.training and "nan" in at.get(seen[0], ()):
            output.last_hidden_state = output.last_hidden_state * float("nan")

    register_module_forward_pre_hook(before)
    register_module_forward_hook(after)
    return main(args)


# -- what is compared ------------------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fingerprint(checkpoint: Path) -> dict[str, Any]:
    """What two runs that ended alike must share: weights, optimiser, and what going on depends on."""
    state = json.loads((checkpoint / "training" / "state.json").read_text())["state"]
    kept = ("optimizer_states", "lr_schedulers", "global_step", "epoch", "babygpt")
    tensors = {
        name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "training/optimizer.safetensors")
    }
    return tensors | {name: state[name] for name in kept}
