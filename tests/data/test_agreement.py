"""What a checkpoint's data and order have to share with this start's."""

from __future__ import annotations

from typing import Any

import pytest

from babygpt.data.agreement import check_agreement
from babygpt.errors import CheckpointError

HERE = {"data_fingerprint": "a", "block": 64, "seed": 0, "too_long": "split"}
SAME: dict[str, Any] = {"words": ("a.txt here gives 9 tokens", "8 tokens"), "weighted": (False, False)}


def refusal(there: dict[str, Any], **more: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_agreement(HERE, there, **{**SAME, **more})
    return str(caught.value)


def test_what_is_equal_or_not_known_to_both_agrees() -> None:
    check_agreement(HERE, HERE, **SAME)
    check_agreement(HERE, {"seed": 0, "of another version": 1}, **SAME)
    check_agreement(HERE, {}, **{**SAME, "weighted": (True, True)})


def test_each_difference_is_said_and_the_text_first() -> None:
    said = refusal({"block": 32, "data_fingerprint": "b", "seed": 1})
    assert (
        ": the text is not the same, or is tokenised otherwise: a.txt here gives 9 tokens, and was 8 tokens;"
        in said
    )
    assert "; block is 64 here and was 32; seed is 0 here and was 1. " in said


def test_weights_on_one_side_only() -> None:
    assert "there are weights here, unlike there" in refusal(HERE, weighted=(True, False))
    assert "there are no weights here, unlike there" in refusal(HERE, weighted=(False, True))
