"""What each verb is asked."""

from __future__ import annotations

import pytest

from babygpt.errors import MachineError, RecipeError
from babygpt.machine import MachineRequest
from babygpt.recipe import DataRecipe, OptimRecipe, Recipe
from babygpt.settings import EvalSettings, GenerateSettings, TrainSettings, VerifySettings


def test_train_settings_hold_a_recipe():
    assert TrainSettings().recipe == Recipe()
    asked = TrainSettings(optim=OptimRecipe(lr=0.1), seed=3)
    assert asked.recipe == Recipe(optim=OptimRecipe(lr=0.1), seed=3)


def test_the_recipe_as_a_whole_is_checked():
    with pytest.raises(RecipeError, match="seed"):
        TrainSettings(seed=-1)
    with pytest.raises(RecipeError, match=r"data\.path"):
        TrainSettings(data=DataRecipe(path=()))


def test_a_resumed_run_takes_no_other_folder():
    with pytest.raises(RecipeError, match=r"^out: a resumed run stays in its own folder\. Leave it out\.$"):
        TrainSettings(out="a", resume="b")
    for name in ("out", "resume"):
        with pytest.raises(RecipeError, match="is not a folder"):
            TrainSettings(**{name: ""})


def test_eval_by_default_names_no_text():
    assert EvalSettings("x").data.path == ()
    with pytest.raises(RecipeError, match=r"^data\.path: is not given, and"):
        EvalSettings("x", DataRecipe(path=(), block=64))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_generate_ranges(field, value):
    with pytest.raises(RecipeError) as error:
        GenerateSettings("x", **{field: value})
    assert error.value.where == field


def test_empty_names():
    for make in (EvalSettings, GenerateSettings, VerifySettings):
        with pytest.raises(RecipeError, match="''"):
            make("")


@pytest.mark.parametrize(
    ("field", "value"), [("micro_batch", 0), ("workers", -1), ("devices", 0), ("nodes", 0), ("nodes", "two")]
)
def test_machine_ranges(field, value):
    with pytest.raises(MachineError) as error:
        MachineRequest(**{field: value})
    assert error.value.where == f"machine.{field}"
