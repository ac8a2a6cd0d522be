"""How long a window is: as asked, or what suits the model."""

from __future__ import annotations

from babygpt.errors import RecipeError
from babygpt.hub import model_config

__all__ = ["DEFAULT_BLOCK", "resolve_block"]

DEFAULT_BLOCK = 512


def resolve_block(block: int | str, model_name: str, revision: str | None = None) -> int:
    """The window length in tokens: as asked, or the model's positions but at most `DEFAULT_BLOCK`.

    A preset of few positions takes a quarter of them: it is small and meant for minutes on a CPU, where many short
    windows teach more than few long ones.

    Raises:
        RecipeError: the block is longer than the model's positions.
    """
    positions = model_config(model_name, revision=revision).get("max_position_embeddings")
    if block == "auto":
        if model_name.startswith("preset:") and positions is not None and positions <= DEFAULT_BLOCK:
            return int(positions) // 4
        return min(DEFAULT_BLOCK, positions or DEFAULT_BLOCK)
    if positions is not None and int(block) > positions:
        raise RecipeError(
            f"a block of {block} tokens is longer than the {positions} positions of {model_name}",
            where="data.block",
            hint=f"Give {positions} or less",
        )
    return int(block)
