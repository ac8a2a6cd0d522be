"""Writes docs/recipe.md from the dataclasses that define the fields: python docs/make_recipe.py."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from babygpt.fields import describe, leaves
from babygpt.machine import MachineRequest
from babygpt.presets import preset_names
from babygpt.recipe import (
    Budget,
    DataRecipe,
    ModelRecipe,
    OptimRecipe,
    ScheduleRecipe,
    ValidateRecipe,
)
from babygpt.settings import CheckpointPlan

GROUPS: tuple[tuple[str, Any], ...] = (
    ("model", ModelRecipe),
    ("data", DataRecipe),
    ("optim", OptimRecipe),
    ("schedule", ScheduleRecipe),
    ("budget", Budget),
    ("validate", ValidateRecipe),
    ("machine", MachineRequest),
    ("checkpoint", CheckpointPlan),
)
_HEAD = """# Every field of a recipe

Each field is a flag (`--optim.lr 0.001`) and a key in YAML (`optim:` and below it `lr: 0.001`). Where the
default is `auto`, the run decides, says so, and writes the decision into `recipe.yaml` or `machine.json`.
`machine` and `checkpoint` are not part of the recipe: they change how a run is done, not what is learned.
Beside the groups there is `seed` (0): of initial weights, data order and dropout. Whole numbers may be written
with a power of ten: `--budget.tokens 1.5e6`.

This page is made from the program by `docs/make_recipe.py`.
"""


def meanings(group: Any) -> dict[str, str]:
    """What a dataclass's docstring says of each field."""
    text = re.split(r"\n\s*(?:Raises|Returns):", group.__doc__.split("Args:\n", 1)[1])[0]
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        start = re.match(r"\s{8}(\w+): (.*)", line) or re.match(r"\s{4}(\w+): (.*)", line)
        if start:
            name = start[1]
            found[name] = start[2]
        elif line.strip():
            found[name] += " " + line.strip()
    return found


def shown(value: Any) -> str:
    """A default as it is written in YAML."""
    if value is None:
        return "`null`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for name, group in GROUPS:
        parts.append(f"\n## {name}\n\n| field | takes | default | meaning |\n|---|---|---|---|\n")
        meaning, taken = meanings(group), leaves(group)
        for field in dataclasses.fields(group):
            text = meaning[field.name].replace("|", "\\|")
            row = (f"`{name}.{field.name}`", describe(taken[field.name]), shown(field.default), text)
            parts.append(f"| {' | '.join(row)} |\n")
    parts.append("\n## Presets\n\n" + ", ".join(f"`preset:{name}`" for name in preset_names()))
    parts.append(
        ", and `preset:llama-WIDTHxLAYERS`: `llama-5m` at any width that is a multiple of 32, and depth.\n"
    )
    return "".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(page(), encoding="utf-8")
