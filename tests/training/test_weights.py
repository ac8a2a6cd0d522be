from __future__ import annotations

from pathlib import Path

import pytest

from babygpt.data.mixture import Stretch
from babygpt.errors import CheckpointError, RecipeError
from babygpt.recipe import DataRecipe
from babygpt.training.weights import change_weights, check_weights, read_changes, refuse_change

RECIPE = DataRecipe(path=("x/web", "x/code"), weights=(0.5, 0.5))


def test_changes_are_written_in_order_and_read_back(tmp_path: Path) -> None:
    said: list[str] = []
    assert read_changes(tmp_path) == []
    change_weights(tmp_path, RECIPE, (0.2, 0.8), 20, said.append)
    change_weights(tmp_path, RECIPE, (1, 0), 7, said.append)
    assert read_changes(tmp_path) == [Stretch(20, (0.2, 0.8)), Stretch(7, (1, 0))]
    assert said == [
        "mixture: from the next step on web 20 %, code 80 % of the windows",
        "mixture: from the next step on web 100 %, code 0 % of the windows",
    ]


def test_what_holds_already_is_not_written(tmp_path: Path) -> None:
    change_weights(tmp_path, RECIPE, (0.5, 0.5), 20, pytest.fail)
    assert not (tmp_path / "weights.json").exists()
    change_weights(tmp_path, RECIPE, (0.2, 0.8), 20, lambda _: None)
    change_weights(tmp_path, RECIPE, (0.2, 0.8), 30, pytest.fail)
    change_weights(tmp_path, RECIPE, (0.5, 0.5), 10, lambda _: None)  # instead of what lay ahead
    assert len(read_changes(tmp_path)) == 2


def test_what_is_refused(tmp_path: Path) -> None:
    check_weights(tmp_path, RECIPE, (1, 2))
    with pytest.raises(RecipeError, match="3 weights for 2 paths"):
        check_weights(tmp_path, RECIPE, (1, 2, 3))
    with pytest.raises(RecipeError, match="less than one window"):
        check_weights(tmp_path, RECIPE, (1, 1e-9))
    with pytest.raises(RecipeError, match="begun without weights"):
        check_weights(tmp_path, DataRecipe(path=("a", "b")), (1, 2))
    with pytest.raises(RecipeError, match="begun with weights"):
        check_weights(tmp_path, RECIPE, ())
    refuse_change(tmp_path, RECIPE, (0.5, 0.5), 9)
    with pytest.raises(RecipeError, match="no step is left"):
        refuse_change(tmp_path, RECIPE, (1, 2), 9)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '[{"step": 3}]',
        '[{"step": -1, "weights": [1]}]',
        '[{"step": 1.5, "weights": [1]}]',
        '[{"step": 1, "weights": [0]}]',
        '[{"step": 1, "weights": [NaN, 1]}]',
        "[" * 10**5,
    ],
)
def test_a_file_that_is_none_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "weights.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"weights\.json"):
        read_changes(tmp_path)
