"""Whether a checkpoint's position means the same data here: what makes data and order what they are, compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from babygpt.errors import CheckpointError

__all__ = ["check_agreement"]

_FINGERPRINT = "data_fingerprint"


def check_agreement(
    here: Mapping[str, Any], there: Mapping[str, Any], *, words: tuple[str, str], weighted: tuple[bool, bool]
) -> None:
    """Compares the values that both know.

    Args:
        here, there: of `LLMDataModule.identity`, now and in the checkpoint.
        words: the data, here and there; empty where they are not told.
        weighted: whether sources are mixed by weights, here and there.

    Raises:
        CheckpointError: they differ, with each difference.
    """
    wrong: list[str] = []
    for name, was in there.items():
        if here.get(name, was) == was:
            continue
        if name == _FINGERPRINT:
            was_there = f", and was {words[1]}" if words[1] else ""
            wrong.insert(0, f"the text is not the same, or is tokenised otherwise: {words[0]}{was_there}")
        else:
            wrong.append(f"{name} is {here[name]} here and was {was}")
    if weighted[0] != weighted[1]:
        wrong.append(f"there are {'' if weighted[0] else 'no '}weights here, unlike there")
    if wrong:
        raise CheckpointError(
            f"the checkpoint was trained on other data or in another order: {'; '.join(wrong)}",
            hint="Give the data and batch size it was trained with, or start a new run from it as model name",
        )
