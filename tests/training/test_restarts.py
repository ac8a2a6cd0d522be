"""Which start of a launch goes on with the run of an earlier one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from babygpt.recipe import Budget, DataRecipe, OptimRecipe
from babygpt.settings import TrainSettings
from babygpt.training.restarts import Begun, begun_by, going_on


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("as it was resolved")
    return tmp_path / "run"


def asked(out: Path | None) -> TrainSettings:
    given = ("optim.lr", "data.path", "data.weights", "budget.minutes", "machine.workers", "json", "seed")
    return TrainSettings(
        optim=OptimRecipe(lr=0.001),
        data=DataRecipe(path=("a.txt",), weights=(1.0,)),
        budget=Budget(minutes=5),
        out=None if out is None else str(out),
        given=given,
    )


def test_the_same_recipe_goes_on_by_what_the_folder_says(out: Path) -> None:
    settings = asked(out)
    again = going_on(begun_by(settings, out), settings)
    assert again is not None
    assert (again.resume, again.out) == (str(out), None)
    assert again.given == ("data.path", "machine.workers", "json"), (
        "of the recipe, where its data lie at most"
    )


def test_a_folder_by_the_clock_is_the_first_starts(out: Path) -> None:
    again = going_on(begun_by(asked(None), out), asked(None))
    assert again is not None
    assert again.resume == str(out)


def test_standard_input_is_not_read_again(out: Path) -> None:
    settings = replace(asked(out), data=DataRecipe(path=("-",)))
    again = going_on(begun_by(settings, out), settings)
    assert again is not None
    assert again.given == ("machine.workers", "json")


def test_a_relative_folder_is_the_same(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out.parent)
    again = going_on(begun_by(asked(out), out), asked(Path("run")))
    assert again is not None
    assert again.resume == "run"


def test_nothing_else_goes_on(out: Path) -> None:
    settings = asked(out)
    begun = begun_by(settings, out)
    assert going_on(None, settings) is None, "another launch's folder"
    assert going_on(begun, replace(settings, seed=1)) is None, "another recipe"
    assert going_on(begun, asked(out.parent / "other")) is None, "another folder"
    assert going_on(Begun(str(out.parent / "none"), begun.recipe), asked(None)) is None, "not come that far"
    assert going_on(begun, replace(settings, out=None, resume=str(out))) is None, "asked for already"
