"""What is compared with what, by hand."""

from __future__ import annotations

import pytest
from plan_recipes import RECIPES
from plan_versus_run import errors, rows_of, step_seconds

PAIR = {
    "recipe": "one",
    "held_out": False,
    "planned": {
        "memory": {"weights": 60, "process": 40},
        "step_seconds": 2.0,
        "time": {"training": 40.0, "validating": 9.0, "validations": 3, "saving": 4.0},
    },
    "happened": {"peak_memory_bytes": 110, "step_seconds": 1.9, "fit_seconds": 55.0, "saving_seconds": 3.0},
}


def test_errors_by_hand() -> None:
    # The fit has two of three validations: 40 + 4 + 6 seconds.
    assert errors(PAIR) == pytest.approx({"memory": 0.1, "step": -0.05, "whole": 0.1})


def test_the_table_sums_up_what_was_held_out_by_itself() -> None:
    other = {
        **PAIR,
        "recipe": "two",
        "held_out": True,
        "happened": {**PAIR["happened"], "peak_memory_bytes": 70},
    }
    rows = {row[0]: row for row in rows_of([PAIR, other])}
    assert rows["two (held out)"][3] == "-30.0%"
    assert (rows["worst of the others"][3], rows["worst of the held out"][3]) == ("10.0%", "30.0%")


def test_steps_are_timed_behind_the_first_interval() -> None:
    first = [{"step": n, "targets": 100, "tokens_per_second": None} for n in range(1, 11)]
    second = [{"step": n, "targets": 100, "tokens_per_second": 50.0} for n in range(11, 21)]
    validation = [{"step": 20, "val_loss": 3.0}]
    assert step_seconds([*first, *second, *validation]) == 2.0


def test_four_are_held_out() -> None:
    assert sum(recipe.held_out for recipe in RECIPES) == 4
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES) >= 12
