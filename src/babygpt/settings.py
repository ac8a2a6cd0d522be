"""What each verb is asked: the recipe, the machine and the rest; the command line is made from these."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from babygpt import fields
from babygpt.errors import RecipeError
from babygpt.logger_names import check_names
from babygpt.machine import MachineRequest
from babygpt.recipe import (
    Auto,
    Budget,
    DataRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    ScheduleRecipe,
    ValidateRecipe,
)
from babygpt.untrusted import redacted

__all__ = [
    "CheckpointPlan",
    "EvalSettings",
    "GenerateSettings",
    "InspectSettings",
    "LabSettings",
    "PrepareSettings",
    "ReportSettings",
    "TrainSettings",
    "VerifySettings",
]


_MOST_RUNS = 50  # of one page


@dataclass(frozen=True)
class CheckpointPlan:
    """When to save and what to keep; no part of the recipe.

    Args:
        every_steps: optimiser steps between checkpoints; auto saves at every validation, null leaves it to
            every_minutes.
        every_minutes: longest time between checkpoints; null leaves it to every_steps.
        keep: how many of the newest are kept beside the best.
    """

    every_steps: int | Auto | None = "auto"
    every_minutes: float | None = 10.0
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every_steps is not None:
            fields.check_whole("checkpoint.every_steps", self.every_steps, least=1, auto=True)
        if self.every_minutes is not None:
            fields.check_number("checkpoint.every_minutes", self.every_minutes, above=0)
        fields.check_whole("checkpoint.keep", self.keep, least=1)


@dataclass(frozen=True)
class TrainSettings:
    """Train a model, or go on training one.

    Args:
        model: the model.
        data: the data, its tokens and its windows.
        optim: the optimiser.
        schedule: the learning rate's course over the run.
        budget: how long to train: at most one of these; none is three minutes.
        validate: when and on how much to validate.
        seed: of initial weights, data order and dropout.
        machine: how this computer does it; never changes what is learned.
        checkpoint: when to save and what to keep.
        out: the run's folder; it must hold no run yet. By default a new one under runs/.
        resume: a run's folder to go on with, by its own recipe.
        log: also send the metrics to tensorboard, wandb, mlflow or trackio, each if it is installed.
        json: print one JSON object on standard output and nothing else there.
        given: the dotted names that were set on purpose, not left at their defaults.
        begun: `time.monotonic()` as the command began, for a budget in minutes; None: as training is called.

    Raises:
        RecipeError: a field is out of range, or fields contradict each other.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    budget: Budget = field(default_factory=Budget)
    validate: ValidateRecipe = field(default_factory=ValidateRecipe)
    seed: int = 0
    machine: MachineRequest = field(default_factory=MachineRequest)
    checkpoint: CheckpointPlan = field(default_factory=CheckpointPlan)
    out: str | None = None
    resume: str | None = None
    log: tuple[str, ...] = ()
    json: bool = False
    given: tuple[str, ...] = ()
    begun: float | None = None

    def __post_init__(self) -> None:
        for name in ("out", "resume"):
            if getattr(self, name) == "":
                raise RecipeError("'' is not a folder", where=name)
        if self.out is not None and self.resume is not None:
            raise RecipeError("a resumed run stays in its own folder", where="out", hint="Leave it out")
        object.__setattr__(self, "log", tuple(self.log))
        check_names(self.log)
        # Checks what only the recipe as a whole can tell.
        _ = self.recipe
        if self.resume is None:
            self.data.check_sources()

    @property
    def recipe(self) -> Recipe:
        """The part that decides what is learned."""
        return Recipe(self.model, self.data, self.optim, self.schedule, self.budget, self.validate, self.seed)


@dataclass(frozen=True)
class EvalSettings:
    """Measure loss, perplexity and bits per byte of a model on text.

    Args:
        checkpoint: a checkpoint or other model folder, or a hub name.
        data: the text; by default what the checkpoint's own run was validated on.
        machine: how this computer does it.
        json: print one JSON object on standard output and nothing else there.

    Raises:
        RecipeError: no checkpoint is named, or it is said how to read a text and not which.
    """

    checkpoint: str
    data: DataRecipe = field(default_factory=lambda: DataRecipe(path=()))
    machine: MachineRequest = field(default_factory=MachineRequest)
    json: bool = False

    def __post_init__(self) -> None:
        _named(self.checkpoint)
        if not self.data.path and self.data != DataRecipe(path=()):
            raise RecipeError(
                "is not given, and the other data fields only say how to read it",
                where="data.path",
                hint="Give it too, or leave them all to the checkpoint's own run",
            )


@dataclass(frozen=True)
class GenerateSettings:
    """Let a model continue a text.

    Args:
        checkpoint: a checkpoint or other model folder, or a hub name.
        prompt: the text to continue; without one the model begins a document of its own.
        chat: take the prompt for a user's turn, in the model's own chat template, and write the assistant's.
        max_new_tokens: length of the continuation at most.
        temperature: 0 always takes the likeliest token; 1 follows the model's probabilities.
        top_p: share of the probability that tokens are drawn from.
        seed: of the drawing.
        json: print one JSON object on standard output and nothing else there.

    Raises:
        RecipeError: a field is out of range.
    """

    checkpoint: str
    prompt: str = ""
    chat: bool = False
    max_new_tokens: int = 100
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    json: bool = False

    def __post_init__(self) -> None:
        _named(self.checkpoint)
        if self.chat and not self.prompt:
            raise RecipeError("there is no turn to answer", where="prompt", hint='Give --prompt "..."')
        if self.max_new_tokens < 1:
            raise RecipeError(f"{self.max_new_tokens} is not at least 1", where="max_new_tokens")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise RecipeError(f"{self.temperature} is not a number of at least 0", where="temperature")
        if not 0 < self.top_p <= 1:
            raise RecipeError(f"{self.top_p} is not above 0 and at most 1", where="top_p")
        if not 0 <= self.seed < 2**32:
            raise RecipeError(f"{self.seed} is not a whole number from 0 to {2**32 - 1}", where="seed")


@dataclass(frozen=True)
class InspectSettings:
    """Show the batches that a model will see, and what is odd in the data.

    Args:
        model: whose tokenizer and positions are taken.
        data: the data, its tokens and its windows.
        seed: of the data order.
        resume: a run's folder, whose next step is shown by its own recipe.
        step: optimiser steps completed before the one that is shown; by default 0, or those of the run.
        windows: how many windows of that step are shown.
        ids: show each token's id.
        html: also write a page to this file.
        json: print one JSON object on standard output and nothing else there.

    Raises:
        RecipeError: a field is out of range, or given beside a run that has it in its recipe.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    seed: int = 0
    resume: str | None = None
    step: int | None = None
    windows: int = 2
    ids: bool = False
    html: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        for name in ("resume", "html"):
            if getattr(self, name) == "":
                raise RecipeError("'' is no name", where=name)
        if self.step is not None:
            fields.check_whole("step", self.step, least=0, most=10**12)
        fields.check_whole("windows", self.windows, least=1, most=1000)
        recipe = self.recipe
        if self.resume is not None and recipe != Recipe():
            raise RecipeError(
                "a run is shown by its own recipe",
                where="resume",
                hint="Leave out what is said of model, data and seed",
            )

    @property
    def recipe(self) -> Recipe:
        """The part of a recipe that decides what a batch holds."""
        return Recipe(model=self.model, data=self.data, seed=self.seed)


@dataclass(frozen=True)
class PrepareSettings:
    """Tokenise data into the cache, where training finds them.

    Args:
        model: whose tokenizer is taken.
        data: the data and how they are split.
        to: also write them as a corpus to this folder, which can be copied anywhere and trained from there.
        json: print one JSON object on standard output and nothing else there.

    Raises:
        RecipeError: no data are named, or several sources are to become one corpus.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    to: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.to == "":
            raise RecipeError("'' is no folder", where="to")
        if self.to is not None and "://" in self.to:
            raise RecipeError(
                f"{redacted(self.to)} is an address, and a corpus is written to a folder of this computer",
                where="to",
                hint="Give a folder, and copy it there afterwards",
            )
        if self.to is not None and self.data.weights:
            raise RecipeError(
                "a corpus holds one source, and data.weights mix several",
                where="to",
                hint="Make a corpus of each; data.path takes several of them with data.weights",
            )
        # Checks what only the recipe as a whole can tell.
        _ = Recipe(model=self.model, data=self.data)
        self.data.check_sources()


@dataclass(frozen=True)
class ReportSettings:
    """Make a page about one or several runs, to read in a browser.

    Args:
        runs: run folders, under way or ended; several are compared.
        out: the page; by default report.html in the first run's folder.
        live: serve the page to this computer's browser, with new points as they come, until Ctrl-C; write none.
        port: of the live page; by default one that is free.
        json: print one JSON object on standard output and nothing else there.

    Raises:
        RecipeError: no run is named, or one twice, or the page has no name; or fields contradict each other.
    """

    runs: tuple[str, ...]
    out: str | None = None
    live: bool = False
    port: int | None = None
    json: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))
        if not self.runs or "" in self.runs:
            raise RecipeError("'' is not a run folder", where="runs")
        if len(set(self.runs)) < len(self.runs):
            raise RecipeError("a run is named twice", where="runs", hint="Name each once")
        if len(self.runs) > _MOST_RUNS:
            raise RecipeError(
                f"{len(self.runs)} runs are more than a page can compare",
                where="runs",
                hint=f"Give at most {_MOST_RUNS}",
            )
        if self.out == "":
            raise RecipeError("'' is no name", where="out")
        if self.live and (self.out is not None or self.json):
            raise RecipeError(
                "a live page is served, and nothing is written or printed",
                where="json" if self.json else "out",
                hint="Leave it or --live out",
            )
        if self.port is not None:
            fields.check_whole("port", self.port, least=1, most=65535)
            if not self.live:
                raise RecipeError("only a live page has one", where="port", hint="Give --live, too")


@dataclass(frozen=True)
class VerifySettings:
    """Check that a checkpoint is whole: every file there, of its size and checksum.

    Args:
        path: a checkpoint folder, a run folder for all of its checkpoints, or the folder of a prepared corpus.
        json: print one JSON object on standard output and nothing else there.

    Raises:
        RecipeError: no folder is named.
    """

    path: str
    json: bool = False

    def __post_init__(self) -> None:
        if not self.path:
            raise RecipeError("'' is not a folder", where="path")


@dataclass(frozen=True)
class LabSettings:
    """Repeat an experiment: a claim about training, with an interval and a verdict.

    Args:
        name: of the lab.
        list: list the labs with what each takes.
        scale: how large the models are and how long they train; small takes minutes on a CPU.
        seeds: pairs of runs; by default as many as the lab says.
        out: the folder of its results; one that was left goes on. By default runs/labs/NAME-SCALE.
        json: print one JSON object on standard output and nothing else there.

    Raises:
        RecipeError: no lab is named, or one beside the list, or a field is out of range.
    """

    name: str = ""
    list: bool = False
    scale: Literal["small", "medium", "large"] = "small"
    seeds: int | None = None
    out: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.list and self.name:
            raise RecipeError("lists every lab", where="--list", hint=f"Leave it or {self.name} out")
        if not self.list and not self.name:
            raise RecipeError("no lab is named", hint="babygpt lab --list lists them")
        if self.seeds is not None:
            fields.check_whole("seeds", self.seeds, least=2, most=1000)
        if self.out == "":
            raise RecipeError("'' is not a folder", where="out")


def _named(checkpoint: str) -> None:
    if not checkpoint:
        raise RecipeError("'' is not a checkpoint", where="checkpoint")
