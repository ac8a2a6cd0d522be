"""Loop counters derived from completed steps, against those of a fit that really did them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from babygpt.training.position import loop_state_at
from fits import trainer_of


def blank() -> dict[str, Any]:
    state: dict[str, Any] = trainer_of(max_epochs=1).fit_loop.state_dict()
    return state


@pytest.mark.parametrize(
    ("steps", "begun", "done", "inside"),
    [(0, 0, 0, 0), (1, 1, 0, 1), (4, 1, 0, 4), (5, 1, 1, 0), (12, 3, 2, 2)],
)
def test_counters_follow_from_steps(steps: int, begun: int, done: int, inside: int) -> None:
    state = loop_state_at(blank(), steps, 5, 3)
    for scope in ("total", "current"):
        epoch = state["epoch_progress"][scope]
        assert (epoch["ready"], epoch["started"], epoch["processed"], epoch["completed"]) == (
            begun,
            begun,
            done,
            done,
        )
    batches = state["epoch_loop.batch_progress"]
    assert set(batches["total"].values()) == {3 * steps}
    assert set(batches["current"].values()) == {3 * inside}
    assert state["epoch_loop.state_dict"]["_batches_that_stepped"] == steps


def test_nothing_saved_is_believed_and_the_given_state_stays() -> None:
    state = blank()
    wrong = deepcopy(state)
    wrong["epoch_progress"]["total"]["completed"] = 99
    wrong["epoch_loop.batch_progress"]["current"]["ready"] = 99
    wrong["epoch_loop.batch_progress"]["is_last_batch"] = True
    kept = deepcopy(wrong)
    assert loop_state_at(wrong, 7, 5, 2) == loop_state_at(state, 7, 5, 2)
    assert wrong == kept
