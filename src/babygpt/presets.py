"""The shipped Hugging Face model configurations by name; they lie in `model/presets/`.

Between their sizes lies a family: llama-WIDTHxLAYERS is llama-5m (llama-256x4) at another width and depth.
"""

from __future__ import annotations

import difflib
import json
import re
from importlib import resources
from typing import Any

from babygpt.errors import RecipeError

__all__ = ["check_preset", "is_sized", "preset_config", "preset_names", "provisional_model", "sized"]

_SIZED = re.compile(r"llama-([1-9]\d{0,4})x([1-9]\d{0,2})")
_MODEL_OF_THE_FAMILY = "llama-5m"
# Every width is a multiple of the first; from four of the second on, heads are of the second.
_HEAD_WIDTHS = (32, 64)
_WIDEST, _DEEPEST = 8192, 128


def preset_names() -> tuple[str, ...]:
    """The model configurations that are shipped."""
    folder = resources.files("babygpt") / "model" / "presets"
    return tuple(sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json")))


def preset_config(name: str) -> dict[str, Any]:
    """A shipped Hugging Face model configuration, or one of the family.

    Args:
        name: with or without `preset:` before it.

    Raises:
        RecipeError: there is none of this name; the nearest is given.
    """
    name = name.removeprefix("preset:")
    check_preset(name)
    if match := _SIZED.fullmatch(name):
        return {**preset_config(_MODEL_OF_THE_FAMILY), **_shape(int(match[1]), int(match[2]))}
    text = (resources.files("babygpt") / "model" / "presets" / f"{name}.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


def sized(width: int, layers: int) -> str:
    """The name of the family's model of a width, a multiple of 32, and a number of blocks."""
    return f"preset:llama-{width}x{layers}"


def provisional_model(name: str) -> str:
    """What data are prepared for: a model as named; for `auto` one of the family, whose sizes share their tokenizer."""
    return f"preset:{_MODEL_OF_THE_FAMILY}" if name == "auto" else name


def is_sized(name: str) -> bool:
    """Whether `preset:NAME` is one of the family, by whatever name."""
    name = name.removeprefix("preset:")
    return name == _MODEL_OF_THE_FAMILY or _SIZED.fullmatch(name) is not None


def _shape(width: int, layers: int) -> dict[str, int]:
    """Fields of a Llama of this size; its perceptrons are 8/3 as wide as the hidden states, up to a multiple of 16."""
    small, large = _HEAD_WIDTHS
    heads = width // (large if width >= 4 * large and width % large == 0 else small)
    return {
        "hidden_size": width,
        "intermediate_size": -(-8 * width // 48) * 16,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }


def check_preset(name: str) -> None:
    """Refuses a name that is neither a shipped configuration's nor one of the family.

    Raises:
        RecipeError: there is none; the nearest is given, or the bounds of the family.
    """
    if match := _SIZED.fullmatch(name):
        width, layers = int(match[1]), int(match[2])
        if width % _HEAD_WIDTHS[0] or width > _WIDEST or layers > _DEEPEST:
            raise RecipeError(
                f"there is no preset of {width} x {layers}",
                where="model.name",
                hint=f"Widths are multiples of {_HEAD_WIDTHS[0]} up to {_WIDEST}, and layers are 1 to {_DEEPEST}",
            )
        return
    names = preset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        meant = f"Did you mean preset:{close[0]}? " if close else ""
        raise RecipeError(
            f"there is no preset {name!r}",
            where="model.name",
            hint=f"{meant}There are {', '.join(names)}, and llama-WIDTHxLAYERS",
        )
