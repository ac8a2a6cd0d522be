"""What is lost when a run goes on from its weights alone.

A checkpoint that holds weights and nothing else forgets the optimiser's averages and where in the data the run was:
the first steps move too far, and the beginning of the text is seen twice. `babygpt train --resume` keeps both, and
goes on as if nothing had happened. Every run trains the uninterrupted run beside its own, and is measured by the
distance from it.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from babygpt import (
    Budget,
    CheckpointPlan,
    DataRecipe,
    MachineRequest,
    ModelRecipe,
    OptimRecipe,
    ScheduleRecipe,
    TrainSettings,
    ValidateRecipe,
    train,
)
from babygpt.labs.framework import Arm, Claim, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.trials import trial

__all__ = ["LAB"]


def settings_of(setting: Setting, model: str, steps: int, out: Path) -> TrainSettings:
    """A run of the command; the rate is constant, so that its length changes nothing."""
    return TrainSettings(
        model=ModelRecipe(name=model),
        data=DataRecipe(
            path=(setting.text,),
            val_fraction=setting.val_fraction,
            tokenizer=f"train:{setting.vocab}",
            block=setting.block,
            global_batch_size=setting.batch,
        ),
        optim=OptimRecipe(name="adamw", lr=setting.lr),
        schedule=ScheduleRecipe("constant", warmup=0.0),
        budget=Budget(steps=steps),
        validate=ValidateRecipe(every_steps=steps),
        seed=setting.seed,
        machine=MachineRequest(
            device="cpu",
            precision="32-true",
            micro_batch=setting.batch,
            compile=False,
            workers=0,
            stall_minutes=None,
        ),
        checkpoint=CheckpointPlan(every_steps=steps, every_minutes=None, keep=1),
        out=str(out),
    )


def _losses(out: Path) -> dict[int, dict[str, Any]]:
    """The lines of a run's metrics by step, those of steps and of validations joined."""
    found: dict[int, dict[str, Any]] = {}
    for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        found.setdefault(values["step"], {}).update(values)
    return found


def trainings(setting: Setting) -> tuple[Setting, ...]:
    """The uninterrupted run, and what the arm adds: the first half, and the rest of it."""
    half = setting.steps // 2
    rest = (replace(setting, steps=half), replace(setting, steps=setting.steps - half))
    return (setting,) if setting.variant == "whole" else (setting, *rest)


def run(setting: Setting) -> Measured:
    """The uninterrupted run, and beside it one that is broken off halfway and goes on as the arm says."""
    half = setting.steps // 2
    with (
        TemporaryDirectory(prefix="babygpt-lab-") as place,
        trial(setting) as made,
        redirect_stderr(io.StringIO()),
    ):
        whole, first, second = (Path(place) / name for name in ("whole", "first", "second"))
        model = str(made.folder)
        train(settings_of(setting, model, setting.steps, whole))
        wanted = _losses(whole)
        if setting.variant == "whole":
            found, shift = wanted, 0
        else:
            train(settings_of(setting, model, half, first))
            if setting.variant == "resumed":
                longer = settings_of(setting, model, setting.steps, first)
                train(replace(longer, out=None, resume=str(first), given=("budget.steps",)))
                found, shift = _losses(first), 0
            else:
                weights = next((first / "checkpoints").glob("step-*"))
                train(settings_of(setting, str(weights), setting.steps - half, second))
                found, shift = _losses(second), half
    after = range(half + 1, setting.steps + 1)
    curve = [(float(s), found[s - shift]["train_loss"] - wanted[s]["train_loss"]) for s in after]
    outcomes = {
        "distance": sum(abs(d) for _, d in curve) / len(curve),
        "val_loss": found[setting.steps - shift]["val_loss"],
    }
    return Measured(outcomes, {"distance": curve})


LAB = Lab(
    name="resume",
    line="Going on with everything, or with the weights alone",
    question="How far is a run that was broken off halfway and gone on with from one that was not?",
    protocol=(
        "The command trains the same recipe whole; broken off after half of its steps and resumed; and begun"
        " again from the"
        " weights of its half, as a new run. The distance is the mean absolute difference of the training loss,"
        " step by step,"
        " from that of the whole run."
    ),
    arms=(
        Arm("whole", "never broken off", {"variant": "whole"}),
        Arm("resumed", "gone on with by --resume", {"variant": "resumed"}),
        Arm("weights-only", "begun again from the weights", {"variant": "weights"}),
    ),
    outcomes=(
        Outcome("distance", "mean distance of the training loss from the whole run's, nats a token"),
        Outcome("val_loss", "validation loss at the end, nats a token"),
    ),
    contrasts=tuple(
        Contrast(outcome, arm, "whole")
        for outcome in ("distance", "val_loss")
        for arm in ("resumed", "weights-only")
    ),
    claims=(Claim("a resumed run is bit-identical", "distance", "resumed", None, 0.0, 0.0),),
    run=run,
    shared=lambda scale: {"steps": scale.steps // 2},
    trainings=trainings,
    plotted=(("distance", "step", "nats from the whole run"),),
)
