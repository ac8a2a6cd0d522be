"""What is said of a run beforehand, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from babygpt.forecast import Duration, checkpoint_bytes, duration, plan_words, start_words, time_words
from babygpt.machine import MachinePlan
from babygpt.model.cost import MemoryParts
from babygpt.planner import Planned
from babygpt.recipe import Budget, DataRecipe, Recipe, ValidateRecipe
from babygpt.timing import StepTime

GIB = 2**30
MEMORY = MemoryParts(GIB, GIB, 2 * GIB, 3 * GIB, GIB // 2, saving=3 * GIB, process=GIB // 2)
PLAN = MachinePlan("cpu", "32-true", 8, False, False, 0, 1, 1, "auto")
RECIPE = Recipe(
    data=DataRecipe(block=128, global_batch_size=8),
    budget=Budget(steps=100),
    validate=ValidateRecipe(every_steps=30),
)


def test_the_time_of_a_run() -> None:
    # Validated before step 0, at 30, 60, 90 and 100: 10 batches and 48 tokens; 4 saves of 1,000 bytes, read 4 times.
    time = duration(RECIPE, StepTime(2.0, 0.5, token=0.25, byte=1e-3), batches=10, saved=1000)
    assert time == Duration(200.0, 5 * (10 * 0.5 + 48 * 0.25), 5, 4 * 4.0)
    assert time.whole == 200 + 85 + 16


def test_a_checkpoint_is_weights_and_state() -> None:
    assert checkpoint_bytes(MEMORY) == 3 * GIB


def test_what_does_not_fit_is_said_where_the_memory_is() -> None:
    planned = Planned(PLAN, ("a reason",), MEMORY, 20 * GIB)
    memory, reason, disk = plan_words(planned)
    assert memory.startswith("memory 11.00 GiB at its peak of 20.50 GiB a device: weights 1.00 GiB, ")
    assert "workspace" not in memory
    assert reason == "a reason"
    assert disk == "disk 9.00 GiB: 3 checkpoints of 3.00 GiB"
    # The process has its memory already: 10.5 of 15 GiB is what a run may take, and no byte more.
    assert replace(planned, available=15 * GIB).fits
    assert not replace(planned, available=15 * GIB - 2).fits
    assert "this does not fit" in plan_words(replace(planned, available=14 * GIB))[0]


def test_time_that_was_not_measured_is_not_said() -> None:
    assert "after the first steps" in start_words(RECIPE, None, 10, MEMORY)
    said = start_words(RECIPE, StepTime(2.0, 0.5), 10, MEMORY)
    assert said.startswith(
        "512 tokens/s, 2 s a step (measured); time 4 min: 3 min of training, 25 s in 5 validations"
    )


@pytest.mark.parametrize(
    ("seconds", "said"), [(5.04, "5.0 s"), (90, "90 s"), (150, "2 min"), (9000, "2.5 h")]
)
def test_times_have_the_unit_that_suits_them(seconds: float, said: str) -> None:
    assert time_words(Duration(seconds, 0, 1, 0)).startswith(f"{said}: {said} of training")
