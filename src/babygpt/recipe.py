"""The recipe: everything that decides what is learned, as frozen dataclasses, and its YAML file.

How a computer does it is no part of it (`machine.py`): the same recipe learns the same anywhere. A field of
`auto` is resolved before training and written resolved, so that a run's `recipe.yaml` alone reproduces it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from babygpt import fields
from babygpt.data_recipe import DataRecipe, without_secrets
from babygpt.errors import RecipeError
from babygpt.fields import Auto
from babygpt.files import write_text_atomic
from babygpt.presets import check_preset
from babygpt.untrusted import shown

__all__ = [
    "Auto",
    "Budget",
    "DataRecipe",
    "ModelRecipe",
    "OptimRecipe",
    "Recipe",
    "ScheduleRecipe",
    "ValidateRecipe",
    "differences",
    "from_dict",
    "read_recipe",
    "to_dict",
    "to_yaml",
    "without_secrets",
    "write_recipe",
]

# Above any run there will be; torch and Lightning count in 64 bits.
_LONGEST = {"steps": 10**10, "tokens": 10**16}


# -- the fields ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelRecipe:
    """The model.

    Args:
        name: preset:NAME (random weights from a configuration that is shipped), a local folder or a hub name;
            llama-WIDTHxLAYERS is a preset of any size, and auto takes of these the one that reaches the lowest
            loss in the budget.
        revision: branch, tag or commit of a hub name.
        attention: which implementation of attention; auto takes the fastest that is right for the packing.
        dropout: share of activations dropped in training, 0 to below 1.
    """

    name: str = "auto"
    revision: str | None = None
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        fields.check_text("model.name", self.name)
        if self.name.startswith("preset:"):
            check_preset(self.name.removeprefix("preset:"))
        if self.revision is not None:
            fields.check_text("model.revision", self.revision)
            if self.name.startswith("preset:"):
                raise RecipeError(
                    f"{self.name} has no revisions",
                    where="model.revision",
                    hint="Only hub names have; leave it out",
                )
        fields.check_number("model.dropout", self.dropout, least=0, below=1)


@dataclass(frozen=True)
class OptimRecipe:
    """The optimiser.

    Args:
        name: adamw, or muon for the matrices of the blocks with AdamW for the rest; auto takes muon for random
            weights and adamw for pretrained ones.
        lr: the peak learning rate; auto takes one that suits the model's size.
        weight_decay: of matrices; biases, norms and other vectors are not decayed.
        betas: how slowly AdamW's two averages forget, 0 to below 1 each.
        grad_clip: largest norm of the whole gradient; 0 clips nothing.
        on_spike: a step whose loss leaps is marked; rollback goes back to the checkpoint before it and on without
            the data in between.
    """

    name: Literal["auto", "adamw", "muon"] = "auto"
    lr: float | Auto = "auto"
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0
    on_spike: Literal["go_on", "rollback"] = "go_on"

    def __post_init__(self) -> None:
        if self.lr != "auto":
            fields.check_number("optim.lr", self.lr, above=0)
        fields.check_number("optim.weight_decay", self.weight_decay, least=0)
        betas: Any = self.betas
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise RecipeError(f"{betas!r} is not two numbers", where="optim.betas")
        for beta in betas:
            fields.check_number("optim.betas", beta, least=0, below=1)
        object.__setattr__(self, "betas", tuple(betas))
        fields.check_number("optim.grad_clip", self.grad_clip, least=0)


@dataclass(frozen=True)
class ScheduleRecipe:
    """The learning rate's course over the run.

    Args:
        name: its shape after the warm-up; wsd stays at the peak and falls at the end.
        warmup: length of the rise to the peak: a share of the run below 1, steps from 1 on.
        final: the last rate as a share of the peak.
    """

    name: Literal["cosine", "linear", "wsd", "constant"] = "linear"
    warmup: float = 0.05
    final: float = 0.0

    def __post_init__(self) -> None:
        fields.check_number("schedule.warmup", self.warmup, least=0)
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise RecipeError(
                f"{self.warmup} is neither a share of the run nor a number of steps",
                where="schedule.warmup",
                hint="Give a number below 1, or a whole number of steps",
            )
        fields.check_number("schedule.final", self.final, least=0, most=1)


@dataclass(frozen=True)
class Budget:
    """How long to train: at most one of these; none is three minutes.

    Args:
        steps: optimiser steps.
        tokens: target tokens.
        epochs: passes over the training text.
        minutes: of the command on this computer, without preparing the data; made into steps before the first one.
        flops: floating-point operations of training, forward and backward.
    """

    steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        names = ("steps", "tokens", "epochs", "minutes", "flops")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise RecipeError(f"{' and '.join(given)} are given", where="budget", hint="Give one of them")
        for name in given:
            if name in ("steps", "tokens"):
                fields.check_whole(f"budget.{name}", getattr(self, name), least=1, most=_LONGEST[name])
            else:
                fields.check_number(f"budget.{name}", getattr(self, name), above=0)


@dataclass(frozen=True)
class ValidateRecipe:
    """When and on how much to validate.

    Args:
        every_steps: optimiser steps between validations; auto validates eight times.
        batches: of global_batch_size windows each; auto takes the whole validation text, or enough of it.
    """

    every_steps: int | Auto = "auto"
    batches: int | Auto = "auto"

    def __post_init__(self) -> None:
        fields.check_whole("validate.every_steps", self.every_steps, least=1, auto=True)
        fields.check_whole("validate.batches", self.batches, least=1, auto=True)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learned.

    Args:
        model: the model.
        data: the data, its tokens and its windows.
        optim: the optimiser.
        schedule: the learning rate's course over the run.
        budget: how long to train.
        validate: when and on how much to validate.
        seed: of initial weights, data order and dropout.

    Raises:
        RecipeError: a field is out of range; it is named.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    budget: Budget = field(default_factory=Budget)
    validate: ValidateRecipe = field(default_factory=ValidateRecipe)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.data.path:
            raise RecipeError("names nothing to train on", where="data.path", hint="Give a file or folder")
        fields.check_whole("seed", self.seed, least=0, most=2**32 - 1)


# -- plain values and YAML -----------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Lists on one line, mappings in block form."""


_Dumper.add_representer(list, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True))

_HEADER = "# The recipe of a BabyGPT run. Train it again: babygpt train --config recipe.yaml\n"


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """As nested plain values, every field named, lists for tuples."""
    return fields.plain(recipe)


def from_dict(values: dict[str, Any], where: str | None = None) -> Recipe:
    """A recipe from nested plain values; fields left out take their defaults.

    Args:
        values: as of `to_dict`.
        where: the file they come from, for the message.

    Raises:
        RecipeError: a field that there is not (with the nearest name), of another type or out of range.
    """
    return fields.build(Recipe, values, where)


def read_recipe(path: Path | str) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        RecipeError: the file cannot be read, or a field in it is wrong; file and field are named.
    """
    return from_dict(fields.read_yaml(path), str(path))


def to_yaml(recipe: Recipe) -> str:
    """A recipe as YAML, every field; addresses without their secrets."""
    values = to_dict(replace(recipe, data=without_secrets(recipe.data)))
    text = _dumped(values, plain=True)
    # A name may turn the direction of writing: such text is read as one thing and taken as another.
    return _HEADER + (text if shown(text) == text else _dumped(values, plain=False))


def _dumped(values: dict[str, Any], *, plain: bool) -> str:
    """YAML with letters of every language as they are, or escaped."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=plain, width=110)


def write_recipe(path: Path | str, recipe: Recipe) -> None:
    """Writes a recipe as YAML, whole or not at all."""
    write_text_atomic(Path(path), to_yaml(recipe))


def differences(a: Recipe, b: Recipe) -> list[str]:
    """Each field that differs, as "optim.lr: 0.001 there, 0.002 here" (`a` is there, `b` is here)."""
    there, here = fields.flatten(to_dict(a)), fields.flatten(to_dict(b))
    return [f"{n}: {_shown(there[n])} there, {_shown(here[n])} here" for n in there if there[n] != here[n]]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value)
