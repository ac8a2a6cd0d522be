"""The shipped Hugging Face model configurations by name; they lie in `model/presets/`."""

from __future__ import annotations

import difflib
import json
from importlib import resources
from typing import Any

from babygpt.errors import RecipeError

__all__ = ["check_preset", "preset_config", "preset_names"]


def preset_names() -> tuple[str, ...]:
    """The model configurations that are shipped."""
    folder = resources.files("babygpt") / "model" / "presets"
    return tuple(sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json")))


def preset_config(name: str) -> dict[str, Any]:
    """A shipped Hugging Face model configuration.

    Args:
        name: with or without `preset:` before it.

    Raises:
        RecipeError: there is none of this name; the nearest is given.
    """
    name = name.removeprefix("preset:")
    check_preset(name)
    text = (resources.files("babygpt") / "model" / "presets" / f"{name}.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


def check_preset(name: str) -> None:
    """Refuses a name that no shipped configuration has.

    Raises:
        RecipeError: there is none; the nearest is given.
    """
    names = preset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        meant = f"Did you mean preset:{close[0]}? " if close else ""
        raise RecipeError(
            f"there is no preset {name!r}", where="model.name", hint=f"{meant}There are {', '.join(names)}"
        )
