"""The planner's arithmetic: what a recipe and a computer resolve to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from babygpt import planner
from babygpt.errors import MachineError
from babygpt.machine import MachineFacts, MachinePlan, MachineRequest
from babygpt.model.load import load_config
from babygpt.planner import resolve_plan, resolve_recipe
from babygpt.recipe import DataRecipe, ModelRecipe, OptimRecipe, Recipe

LAPTOP = MachineFacts("laptop", ("cpu",), 0, 2, 2, 24 * 2**30, ())
SERVER = MachineFacts("server", ("cpu",), 0, 2, 2, 24 * 2**30, ("cpu",))
OLD_GPU = MachineFacts("old", ("cuda", "cpu"), 4, 8, 8, 64 * 2**30, ())
NEW_GPU = MachineFacts("new", ("cuda", "cpu"), 4, 8, 8, 64 * 2**30, ("cuda",))


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "memory_available", lambda device: 64 * 2**30)


def resolved(**data: Any) -> Recipe:
    recipe = Recipe(model=ModelRecipe("preset:gpt2-1m"), data=DataRecipe(**{"global_batch_size": 12, **data}))
    return resolve_recipe(recipe, model_name="preset:gpt2-1m", parameters=1_000_000, block=128)


def config() -> Any:
    return load_config("preset:gpt2-1m")


def needed(micro_batch: int, checkpointing: int = 0, recipe: Recipe | None = None) -> int:
    recipe = recipe or resolved()
    return planner.memory_of(recipe, config(), "cpu", "32-true", micro_batch, checkpointing).needed


def plan_of(facts: MachineFacts, recipe: Recipe | None = None, **request: Any) -> MachinePlan:
    return resolve_plan(MachineRequest(**request), facts, recipe or resolved(), config()).plan


# -- the recipe ----------------------------------------------------------------------------------------------


def test_what_is_given_stays() -> None:
    recipe = Recipe(
        data=DataRecipe(global_batch_size=7), optim=OptimRecipe(lr=3e-3), model=ModelRecipe("preset:gpt2-4m")
    )
    done = resolve_recipe(recipe, model_name="preset:gpt2-4m", parameters=4_000_000, block=64)
    assert (done.data.global_batch_size, done.optim.lr, done.data.block) == (7, 3e-3, 64)


@pytest.mark.parametrize("name", ["preset:gpt2-4m", "some/pretrained"])
def test_nothing_of_it_stays_auto(name: str) -> None:
    done = resolve_recipe(Recipe(), model_name=name, parameters=4_000_000, block=256)
    assert isinstance(done.data.global_batch_size, int)
    assert isinstance(done.optim.lr, float)
    assert done.optim.name == ("muon" if name.startswith("preset:") else "adamw")
    assert done.model.name == name


def test_rates_fall_with_size_and_pretrained_weights_get_a_small_one() -> None:
    def rate(name: str, parameters: int) -> float:
        done = resolve_recipe(Recipe(), model_name=name, parameters=parameters, block=256)
        return float(done.optim.lr)

    scratch = [rate("preset:gpt2-4m", n) for n in (10**6, 10**7, 10**8, 10**9)]
    assert scratch == sorted(scratch, reverse=True)
    adamw = Recipe(optim=OptimRecipe(name="adamw"))
    done = resolve_recipe(adamw, model_name="preset:gpt2-124m", parameters=124_000_000, block=256)
    assert done.optim.lr == pytest.approx(6e-4)
    assert 1e-5 <= rate("gpt2", 124_000_000) <= 3e-4


# -- the plan ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plenty")
@pytest.mark.parametrize(
    ("facts", "precision"),
    [(LAPTOP, "32-true"), (SERVER, "bf16-mixed"), (OLD_GPU, "16-mixed"), (NEW_GPU, "bf16-mixed")],
)
def test_precision_is_what_the_hardware_has(facts: MachineFacts, precision: str) -> None:
    plan = plan_of(facts)
    assert plan.precision == precision
    assert plan.device == facts.device
    assert plan.devices == max(1, facts.cuda_count)
    assert plan.strategy == ("ddp" if facts.cuda_count else "auto")


@pytest.mark.usefixtures("plenty")
@pytest.mark.parametrize("asked", ["32-true", "64-true", "bf16-mixed"])
def test_a_precision_asked_for_is_taken(asked: Any) -> None:
    assert plan_of(LAPTOP, precision=asked).precision == asked


@pytest.mark.usefixtures("plenty")
@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"device": "cuda"}, "machine.device: this computer has no cuda. It has cpu"),
        ({"precision": "16-mixed"}, "machine.precision: 16-mixed needs a GPU"),
    ],
)
def test_what_the_computer_has_not(request_: dict[str, Any], says: str) -> None:
    with pytest.raises(MachineError) as caught:
        plan_of(LAPTOP, **request_)
    assert str(caught.value).startswith(says)


@pytest.mark.usefixtures("plenty")
def test_more_devices_than_there_are() -> None:
    with pytest.raises(MachineError, match="8 devices asked, 4 there"):
        plan_of(NEW_GPU, devices=8)


def test_a_step_takes_no_more_than_the_text_makes() -> None:
    recipe = resolve_recipe(Recipe(), model_name="preset:gpt2-4m", parameters=4_000_000, block=256, windows=5)
    assert recipe.data.global_batch_size == 5
    asked = Recipe(data=DataRecipe(global_batch_size=8))
    recipe = resolve_recipe(asked, model_name="preset:gpt2-4m", parameters=4_000_000, block=256, windows=5)
    assert recipe.data.global_batch_size == 8


@pytest.mark.usefixtures("plenty")
def test_processes_may_be_as_many_as_cores_and_always_two() -> None:
    assert plan_of(LAPTOP, devices=max(2, LAPTOP.cores)).devices == max(2, LAPTOP.cores)
    assert plan_of(replace(LAPTOP, cores=1), devices=2).devices == 2
    with pytest.raises(MachineError, match="processes would share"):
        plan_of(LAPTOP, devices=max(2, LAPTOP.cores) + 1)


def test_micro_batch_is_the_largest_divisor_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (4, 5, 6, 12):
        most = needed(room)
        monkeypatch.setattr(planner, "memory_available", lambda device, most=most: int(most / 0.7) + 1)
        plan = plan_of(LAPTOP)
        assert plan.micro_batch == max(s for s in (1, 2, 3, 4, 6, 12) if s <= room)
        assert not plan.activation_checkpointing


def test_activations_are_recomputed_only_where_memory_demands(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = needed(1)
    monkeypatch.setattr(planner, "memory_available", lambda device: int(0.99 * whole / 0.7))
    assert plan_of(LAPTOP).activation_checkpointing
    assert not plan_of(LAPTOP, activation_checkpointing=False).activation_checkpointing
    monkeypatch.setattr(planner, "memory_available", lambda device: 2**40)
    assert plan_of(LAPTOP, activation_checkpointing=True).activation_checkpointing


@pytest.mark.parametrize("every", [4, 3, 1])
def test_of_no_more_blocks_than_memory_demands(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What recomputing every n-th block needs is there and no byte more: of what fits, it recomputes the fewest."""
    # Muon's update would take more than the activations of so small a model.
    recipe = replace(resolved(), optim=OptimRecipe(name="adamw", lr=1e-3))
    least = needed(1, every, recipe)
    monkeypatch.setattr(planner, "memory_available", lambda device: math.ceil(least / 0.7))
    plan = plan_of(LAPTOP, recipe)
    assert config().n_layer == 4
    fewest = max(n for n in (1, 2, 3, 4) if needed(1, n, recipe) <= least)
    assert (plan.micro_batch, plan.activation_checkpointing) == (1, fewest)
    assert plan_of(LAPTOP, activation_checkpointing=3).activation_checkpointing == 3


def test_blocks_are_recomputed_by_a_whole_number() -> None:
    for wrong in (0, -2, 1.5):
        with pytest.raises(
            MachineError, match=r"machine\.activation_checkpointing: .* is not true, false, or"
        ):
            MachineRequest(activation_checkpointing=wrong)  # type: ignore[arg-type]


@pytest.mark.usefixtures("plenty")
def test_a_step_is_shared_by_the_devices() -> None:
    assert plan_of(NEW_GPU).micro_batch == 3
    assert plan_of(NEW_GPU, devices=1).micro_batch == 12
    assert plan_of(LAPTOP, devices=2).strategy == "ddp"
    assert plan_of(LAPTOP, micro_batch=5).micro_batch == 5
    assert plan_of(LAPTOP, micro_batch=50).micro_batch == 12


@pytest.mark.usefixtures("plenty")
def test_every_choice_has_its_reason() -> None:
    reasons = resolve_plan(MachineRequest(), SERVER, resolved(), config()).reasons
    for name in ("precision", "micro-batch", "activation checkpointing", "compilation"):
        assert sum(reason.startswith(name) for reason in reasons) == 1


@pytest.mark.usefixtures("plenty")
def test_on_a_cpu_the_process_and_the_copy_that_is_saved_lie_in_the_same_memory() -> None:
    here = resolve_plan(MachineRequest(), LAPTOP, resolved(), config()).memory
    there = resolve_plan(MachineRequest(), NEW_GPU, resolved(), config()).memory
    assert here.saving == here.weights + here.optimizer
    assert here.process > 50 * 2**20  # Python with torch
    assert here.total == here.needed + here.process
    assert (there.saving, there.process) == (0, 0)


@pytest.mark.usefixtures("plenty")
def test_a_request_to_compile_is_said() -> None:
    def reason(**asked: Any) -> str:
        reasons = resolve_plan(MachineRequest(**asked), LAPTOP, resolved(), config()).reasons
        return next(each for each in reasons if each.startswith("compilation"))

    assert reason(compile=True) == "compilation on: as asked"
    assert reason(compile=False) == "compilation off: as asked"
    assert "machine.compile true to try" in reason()
