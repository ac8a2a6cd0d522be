"""What the verbs plan and doctor are asked: a recipe, and a computer to look at with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from babygpt import fields
from babygpt.errors import RecipeError
from babygpt.machine import MachineRequest
from babygpt.machines import PlanMachine
from babygpt.recipe import (
    Budget,
    DataRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    ScheduleRecipe,
    ValidateRecipe,
)

__all__ = ["DoctorSettings", "PlanSettings"]


@dataclass(frozen=True)
class PlanSettings:
    """Say what a run will need and reach, without running it.

    Args:
        model: the model.
        data: the data, its tokens and its windows.
        optim: the optimiser.
        budget: how long to train: at most one of these; none is three minutes.
        validate: when and on how much to validate.
        machine: the computer to plan for.
        price_per_hour: of that computer, all devices, in any currency.
        watts: that it takes under load, all devices; a preset knows its own.
        json: print one JSON object on standard output and nothing else there.
        begun: `time.monotonic()` as the command began, for a budget in minutes; None: as planning is called.

    Raises:
        RecipeError: a field is out of range, or fields contradict each other.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    budget: Budget = field(default_factory=Budget)
    validate: ValidateRecipe = field(default_factory=ValidateRecipe)
    machine: PlanMachine = field(default_factory=PlanMachine)
    price_per_hour: float | None = None
    watts: float | None = None
    json: bool = False
    begun: float | None = None

    def __post_init__(self) -> None:
        for name in ("price_per_hour", "watts"):
            if getattr(self, name) is not None:
                fields.check_number(name, getattr(self, name), above=0)
        # Checks what only the recipe as a whole can tell.
        _ = self.recipe
        self.data.check_sources()

    @property
    def recipe(self) -> Recipe:
        """The part that decides what is learned."""
        return Recipe(self.model, self.data, self.optim, ScheduleRecipe(), self.budget, self.validate)


@dataclass(frozen=True)
class DoctorSettings:
    """Look for what would keep a run from working, and say how to mend it.

    Args:
        model: the model, if a recipe is to be looked at too.
        data: the data, its tokens and its windows.
        optim: the optimiser.
        schedule: the learning rate's course over the run.
        budget: how long to train: at most one of these.
        validate: when and on how much to validate.
        seed: of initial weights, data order and dropout.
        machine: how this computer would do it.
        out: the folder that the run would write to; by default one under runs/.
        json: print one JSON object on standard output and nothing else there.
        given: the dotted names that were set on purpose, not left at their defaults.

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
    out: str | None = None
    json: bool = False
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.out == "":
            raise RecipeError("'' is not a folder", where="out")
        # Checks what only the recipe as a whole can tell.
        _ = self.recipe
        self.data.check_sources()

    @property
    def recipe(self) -> Recipe:
        """The part that decides what is learned."""
        return Recipe(self.model, self.data, self.optim, self.schedule, self.budget, self.validate, self.seed)

    @property
    def names_a_recipe(self) -> bool:
        """Whether more is given than where to write and how to print."""
        return any(name not in ("out", "json") for name in self.given)
