"""Arrays that are computed where they are looked at, against the same as numpy has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babygpt.data.computed import Progression


@given(st.integers(0, 40), st.integers(-5, 5), st.integers(-3, 9), st.integers(-9, 9), st.data())
def test_a_progression_is_its_array(
    count: int, first: int, step: int, last: int, data: st.DataObject
) -> None:
    progression = Progression(count, first, step, last)
    array = np.array([first + step * n for n in range(count - 1)] + [last] * (count > 0), dtype=np.int64)
    assert len(progression) == count
    assert progression.tolist() == array.tolist()
    assert progression.sum() == array.sum()
    assert (progression * 2 - array).tolist() == array.tolist()
    start, end = data.draw(st.integers(-50, 50)), data.draw(st.integers(-50, 50))
    assert progression[start:end].tolist() == array[start:end].tolist()
    assert progression[array > 0].tolist() == array[array > 0].tolist()
    if count:
        places = data.draw(st.lists(st.integers(-count, count - 1)))
        assert progression[places].tolist() == [array[n] for n in places]
        assert progression[places[0] if places else 0] == array[places[0] if places else 0]
    for beyond in (count, -count - 1):
        with pytest.raises(IndexError, match=f"in an array of {count}"):
            progression[beyond]


def test_a_billion_numbers_take_no_time() -> None:
    progression = Progression(10**9, 0, 7, 1)
    assert progression.sum() == 7 * (10**9 - 1) * (10**9 - 2) // 2 + 1
    assert progression[[0, 10**9 - 2, -1]].tolist() == [0, 7 * (10**9 - 2), 1]
