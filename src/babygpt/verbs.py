"""The verbs of the command: what does each, how it is called, and the words that people try instead.

A verb's file, and torch with it, is named here and imported by `cli` once its arguments are known to be right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from babygpt.arguments import Syntax
from babygpt.machine_settings import DoctorSettings, PlanSettings
from babygpt.settings import (
    EvalSettings,
    GenerateSettings,
    InspectSettings,
    LabSettings,
    PrepareSettings,
    ReportSettings,
    TrainSettings,
    VerifySettings,
)

__all__ = ["OTHER_VERBS", "VERBS", "Verb"]


@dataclass(frozen=True)
class Verb:
    """A verb of the command.

    Args:
        home: the function that does it, as module:name.
        syntax: how it is called.
    """

    home: str
    syntax: Syntax[Any]

    @property
    def summary(self) -> str:
        """One line for the list of verbs."""
        return str(self.syntax.settings.__doc__).splitlines()[0]


_ON_THIS_MACHINE = (
    "micro_batch",
    "precision",
    "activation_checkpointing",
    "compile",
    "workers",
    "devices",
    "nodes",
)
_EVAL_IGNORES = (
    *(f"machine.{name}" for name in (*_ON_THIS_MACHINE, "strategy")),
    *(f"data.{name}" for name in ("weights", "val_path", "val_fraction", "deduplicate", "tokenizer")),
    "data.global_batch_size",
    "data.prompt_weight",
)

_PREPARE_IGNORES = (
    *(f"model.{name}" for name in ("attention", "dropout")),
    *(f"data.{name}" for name in ("block", "packing", "global_batch_size")),
)

VERBS: dict[str, Verb] = {
    "train": Verb(
        "babygpt.train:train",
        Syntax(
            "babygpt train",
            TrainSettings,
            left_out=("given", "begun"),
            one_of="budget",
            takes_config=True,
            examples=(
                "babygpt train",
                "babygpt train --data.path notes.txt --budget.minutes 10 --out runs/notes",
                "babygpt train --model.name path/to/model --data.path chat.jsonl --optim.lr 2e-5",
                "babygpt train --config runs/notes/recipe.yaml --seed 1 --out runs/again",
                "babygpt train --resume runs/notes",
            ),
        ),
    ),
    "eval": Verb(
        "babygpt.evaluate:evaluate",
        Syntax(
            "babygpt eval",
            EvalSettings,
            positional="checkpoint",
            left_out=_EVAL_IGNORES,
            examples=(
                "babygpt eval runs/notes/checkpoints/last",
                "babygpt eval path/to/model --data.path book.txt --json",
            ),
        ),
    ),
    "generate": Verb(
        "babygpt.generate:generate",
        Syntax(
            "babygpt generate",
            GenerateSettings,
            positional="checkpoint",
            examples=(
                'babygpt generate runs/notes/checkpoints/last --prompt "Once"',
                'babygpt generate path/to/model --prompt "2 + 2 =" --temperature 0 --max_new_tokens 5',
                'babygpt generate path/to/model --chat --prompt "Who are you?"',
            ),
        ),
    ),
    "data prepare": Verb(
        "babygpt.prepare:prepare_data",
        Syntax(
            "babygpt data prepare",
            PrepareSettings,
            left_out=_PREPARE_IGNORES,
            takes_config=True,
            config=TrainSettings,
            examples=(
                "babygpt data prepare --data.path notes.txt letters --model.name path/to/model",
                "babygpt data prepare --config runs/notes/recipe.yaml --json",
                "babygpt data prepare --data.path train.bin --data.val_path val.bin --data.tokenizer path/to/model",
            ),
        ),
    ),
    "data inspect": Verb(
        "babygpt.inspect_data:inspect_data",
        Syntax(
            "babygpt data inspect",
            InspectSettings,
            takes_config=True,
            config=TrainSettings,
            examples=(
                "babygpt data inspect --data.path chat.jsonl --model.name path/to/model",
                "babygpt data inspect --config runs/notes/recipe.yaml --step 100 --ids --html batch.html",
                "babygpt data inspect --resume runs/notes",
            ),
        ),
    ),
    "report": Verb(
        "babygpt.report.verb:report",
        Syntax(
            "babygpt report",
            ReportSettings,
            positional="runs",
            examples=(
                "babygpt report runs/notes",
                "babygpt report runs/notes runs/faster --out comparison.html",
                "babygpt report runs/notes --live",
            ),
        ),
    ),
    "lab": Verb(
        "babygpt.labs.verb:lab",
        Syntax(
            "babygpt lab",
            LabSettings,
            positional="name",
            examples=(
                "babygpt lab --list",
                "babygpt lab weight-decay --scale medium --seeds 8 --out runs/decay",
            ),
        ),
    ),
    "checkpoint verify": Verb(
        "babygpt.verify:verify",
        Syntax(
            "babygpt checkpoint verify",
            VerifySettings,
            positional="path",
            examples=(
                "babygpt checkpoint verify runs/notes/checkpoints/last",
                "babygpt checkpoint verify runs/notes",
                "babygpt checkpoint verify corpus",
            ),
        ),
    ),
    "plan": Verb(
        "babygpt.plan:plan",
        Syntax(
            "babygpt plan",
            PlanSettings,
            left_out=("begun",),
            one_of="budget",
            takes_config=True,
            config=TrainSettings,
            examples=(
                "babygpt plan --data.path notes.txt --model.name preset:gpt2-11m --budget.tokens 1000000",
                "babygpt plan --config runs/notes/recipe.yaml --machine.preset h100x8 --price_per_hour 20",
            ),
        ),
    ),
    "doctor": Verb(
        "babygpt.doctor.verb:doctor",
        Syntax(
            "babygpt doctor",
            DoctorSettings,
            left_out=("given",),
            one_of="budget",
            takes_config=True,
            config=TrainSettings,
            examples=(
                "babygpt doctor",
                "babygpt doctor --data.path chat.jsonl --model.name path/to/model",
                "babygpt doctor --config runs/notes/recipe.yaml --json",
            ),
        ),
    ),
}

OTHER_VERBS = {
    "chat": "generate --chat",
    "check": "doctor",
    "diagnose": "doctor",
    "env": "doctor",
    "evaluate": "eval",
    "experiment": "lab",
    "finetune": "train",
    "estimate": "plan",
    "fit": "train",
    "inspect": "data inspect",
    "prepare": "data prepare",
    "pretrain": "train",
    "plot": "report",
    "resume": "train --resume",
    "sample": "generate",
    "test": "eval",
    "tokenize": "data prepare",
    "validate": "eval",
    "verify": "checkpoint verify",
    "watch": "report --live",
}
