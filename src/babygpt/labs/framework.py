"""What a lab is: a frozen description that a runner carries out and a verdict is computed from.

    Lab     question, protocol, arms, what is measured, what is compared, what is claimed
    Arm     (scale, seed) -> Setting, a pure function: two arms of one seed differ in what the arm changes, nothing else
    Setting everything that a run is a function of, as plain values
    run     Setting -> Measured: numbers, curves and tables of one run
    trainings  Setting -> the settings that one run trains by, one after the other: what a lab costs

The first arm is the baseline. It is run a second time with other seeds: the null comparison, in which nothing but
chance differs, so that whoever reads an effect sees beside it what no effect looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = [
    "NULL",
    "SCALES",
    "Arm",
    "Claim",
    "Contrast",
    "Cost",
    "Lab",
    "Measured",
    "Outcome",
    "Scale",
    "Setting",
]

NULL = "null"
_NULL_SEEDS = 10_000
_VALIDATED = 16_384  # tokens of a validation


@dataclass(frozen=True)
class Scale:
    """How large the models of a lab are and how long they train.

    Args:
        name: of the scale.
        width: of the hidden states; a multiple of 32.
        layers: blocks.
        vocab: entries of the tokenizer that is trained.
        block: tokens of a window.
        batch: windows of an optimiser step.
        steps: optimiser steps of a run.
        text: what is trained on, as `data.path` says it.
        threads: of the arithmetic; more than one only slow a tiny model down.
    """

    name: str
    width: int
    layers: int
    vocab: int
    block: int
    batch: int
    steps: int
    text: str
    threads: int


SCALES = {
    scale.name: scale
    for scale in (
        Scale("small", 64, 2, 512, 32, 8, 120, "builtin:prose", 1),
        Scale("medium", 128, 4, 2048, 128, 16, 600, "builtin:python", 2),
        Scale("large", 256, 6, 4096, 256, 32, 2000, "builtin:python", 2),
    )
}


@dataclass(frozen=True)
class Setting:
    """Everything a run is a function of, as plain values.

    Args:
        arm: whose run it is.
        seed: of initial weights and data order.
        width, layers, vocab, block, batch, steps, text: as of the scale.
        threads: of the arithmetic.
        micro_batch: windows of one forward pass; 0 is the whole step's.
        lr: the peak learning rate.
        rates: peak learning rates that are tried one by one in its place; the best of them counts.
        schedule, warmup, final: its course, as in a recipe.
        optimizer, weight_decay: as in a recipe.
        precision: number format of the arithmetic.
        packing: as in a recipe.
        activation_checkpointing: whether activations are recomputed.
        val_fraction: share of the text that is held out.
        validations: of a training, evenly over its steps, beside the one before the first.
        variant: what the lab's own `run` does differently in this arm.
    """

    arm: str
    seed: int
    width: int
    layers: int
    vocab: int
    block: int
    batch: int
    steps: int
    text: str
    threads: int
    micro_batch: int = 0
    lr: float = 3e-3
    rates: tuple[float, ...] = ()
    schedule: str = "cosine"
    warmup: float = 0.05
    final: float = 0.0
    optimizer: str = "adamw"
    weight_decay: float = 0.1
    precision: str = "32-true"
    packing: str = "stream"
    activation_checkpointing: bool = False
    val_fraction: float = 0.1
    validations: int = 1
    variant: str = ""

    @property
    def parameters(self) -> int:
        """Of the model, its norms and biases left out: 12 L d^2 + V d."""
        return 12 * self.layers * self.width**2 + self.vocab * self.width

    @property
    def flops(self) -> float:
        """Of one training: of a token 6 N + 12 L d block in a step, a third of that where it is validated.

        Recomputing adds a forward pass.
        """
        forward = 2.0 * self.parameters + 4.0 * self.layers * self.width * self.block
        passes = 4 if self.activation_checkpointing else 3
        trained = self.steps * self.batch * self.block
        return forward * (passes * trained + (1 + self.validations) * _VALIDATED)

    def searched(self) -> tuple[Setting, ...]:
        """One for each of its rates; itself where there are none."""
        return tuple(replace(self, lr=lr, rates=()) for lr in self.rates) or (self,)


@dataclass(frozen=True)
class Measured:
    """What one run gave.

    Args:
        outcomes: a number for each outcome of the lab; one that is not finite says that the run broke down.
        curves: by name, points (x, y).
        tables: by title, rows of cells, the first being the heads; for people, of the first seed.
    """

    outcomes: Mapping[str, float]
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)
    tables: Mapping[str, list[list[str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One way of doing it.

    Args:
        name: short, as it stands in tables.
        about: what is different in it, in a sentence.
        changes: fields of the setting.
        times: fields that are multiplied, whatever they are at the scale; whole numbers stay whole.
    """

    name: str
    about: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A number that each run gives.

    Args:
        name: in `Measured.outcomes`.
        about: what it is, with its unit.
        ratio: whether arms are compared by their ratio, else by their difference. Only for numbers above 0.
    """

    name: str
    about: str
    ratio: bool = False


@dataclass(frozen=True)
class Contrast:
    """Two arms compared in one outcome, seed by seed."""

    outcome: str
    arm: str
    against: str


@dataclass(frozen=True)
class Claim:
    """Something that is said, and where the number would have to lie for it to be so.

    Args:
        text: the sentence.
        outcome: which it is about.
        arm: whose number.
        against: compared with this arm, as the outcome says; None takes the number itself.
        low, high: the claim holds within them.
    """

    text: str
    outcome: str
    arm: str
    against: str | None
    low: float
    high: float


@dataclass(frozen=True)
class Cost:
    """What a lab takes at a scale: runs, and about how many operations all their trainings and validations do."""

    runs: int
    flops: float


@dataclass(frozen=True)
class Lab:
    """An experiment.

    Args:
        name: as in `babygpt lab NAME`.
        line: what it is about, in a line.
        question: what it asks.
        protocol: what is done, and what is held equal.
        arms: the first is the baseline.
        outcomes: the first is the one it turns on.
        contrasts: what is compared.
        run: a setting to what came of it.
        claims: what is said of it elsewhere.
        shared: fields of the setting that hold for every arm.
        plotted: curves of the page, each (name, label of x, label of y).
        trainings: what a run trains by; of runs that train by the same, one does it for all.
        seeds: pairs, unless told otherwise.
        notice: what has to be known of this computer to read the results rightly; empty if nothing.
    """

    name: str
    line: str
    question: str
    protocol: str
    arms: tuple[Arm, ...]
    outcomes: tuple[Outcome, ...]
    contrasts: tuple[Contrast, ...]
    run: Callable[[Setting], Measured]
    claims: tuple[Claim, ...] = ()
    shared: Callable[[Scale], Mapping[str, Any]] = lambda scale: {}
    plotted: tuple[tuple[str, str, str], ...] = (("train_loss", "step", "nats a token"),)
    trainings: Callable[[Setting], tuple[Setting, ...]] = Setting.searched
    seeds: int = 6
    notice: Callable[[], str] = lambda: ""

    def __post_init__(self) -> None:
        arms, outcomes = {a.name for a in self.arms}, {o.name for o in self.outcomes}
        assert NULL not in arms, "the null comparison is made of the first arm"
        assert len(arms) == len(self.arms), "arms have names of their own"
        assert len(outcomes) == len(self.outcomes), "outcomes have names of their own"
        about: list[Contrast | Claim] = [*self.contrasts, *self.claims]
        for each in about:
            assert {each.arm, each.against or each.arm} <= arms, f"{each} is about an arm that there is not"
            assert each.outcome in outcomes, f"{each} is about an outcome that there is not"

    @property
    def baseline(self) -> Arm:
        """What the null comparison repeats."""
        return self.arms[0]

    def outcome(self, name: str) -> Outcome:
        """By its name."""
        return next(o for o in self.outcomes if o.name == name)

    def setting(self, arm: str, scale: Scale, seed: int) -> Setting:
        """What a run of an arm is a function of; `null` is the baseline with a seed that no arm has."""
        if arm == NULL:
            return replace(self.setting(self.baseline.name, scale, seed + _NULL_SEEDS), arm=NULL)
        chosen = next(a for a in self.arms if a.name == arm)
        plain = Setting(
            arm=arm,
            seed=seed,
            width=scale.width,
            layers=scale.layers,
            vocab=scale.vocab,
            block=scale.block,
            batch=scale.batch,
            steps=scale.steps,
            text=scale.text,
            threads=scale.threads,
        )
        made = replace(plain, **{**self.shared(scale), **chosen.changes})
        return replace(made, **{n: _times(getattr(made, n), factor) for n, factor in chosen.times.items()})

    def plan(self, scale: Scale, seeds: int) -> list[Setting]:
        """Every run in the order it is made: pair by pair, every other pair backwards.

        A machine that becomes slower or faster meanwhile does so for every arm alike.
        """
        arms = [*(a.name for a in self.arms), NULL]
        return [
            self.setting(arm, scale, seed)
            for seed in range(seeds)
            for arm in (arms if seed % 2 == 0 else reversed(arms))
        ]

    def cost(self, scale: Scale, seeds: int) -> Cost:
        """What all of it takes."""
        plan = self.plan(scale, seeds)
        made = {self.trainings(setting) for setting in plan}
        return Cost(len(plan), sum(each.flops for trainings in made for each in trainings))


def _times(value: Any, factor: float) -> Any:
    return round(value * factor) if isinstance(value, int) else value * factor
