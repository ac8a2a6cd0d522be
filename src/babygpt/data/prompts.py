"""Prompts that count: whether what is no target in a store is a prompt, and nothing that was left out on purpose.

A store's mask tells targets from the rest. It does not tell a prompt from a turn that its author left out (`weight` 0),
nor what the labels of data tokenised elsewhere meant: that is noted where documents are read, in words, and goes with
the store.
"""

from __future__ import annotations

from babygpt.errors import RecipeError
from babygpt.recipe import DataRecipe

__all__ = ["check_prompts"]

_WHERE = "data.prompt_weight"


def check_prompts(recipe: DataRecipe, masked: bool, withheld: str | None) -> str | None:
    """What there is to say of `prompt_weight` with these data; None where it is 0 or does what it says.

    Args:
        recipe: says how much prompts count.
        masked: whether some of what is trained on is no target, or may be before it is encoded.
        withheld: the first part of it that is to count nothing, in words; empty if there is none, None if not known.

    Raises:
        RecipeError: prompts would count, and with them what is to count nothing.
    """
    if not recipe.prompt_weight:
        return None
    if not masked:
        return f"there are no prompts in these data: {_WHERE} {recipe.prompt_weight:g} changes nothing"
    if withheld is None:
        raise RecipeError(
            "the corpus was prepared by a version that did not note whether something in it is to count nothing",
            where=_WHERE,
            hint="Prepare it again from the text, with data.prompt_weight, or leave that out",
        )
    if withheld:
        raise RecipeError(
            f"counts all that is no target, and that may be more than prompts: {withheld}",
            where=_WHERE,
            hint="Leave data.prompt_weight out, or take such documents out of the data",
        )
    return None
