"""BabyGPT: train any Hugging Face causal language model, one recipe on any machine.

The public names are loaded when first asked for, so that the command answers before torch is imported.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from babygpt.errors import BabyGPTError, InputError, Stopped

if TYPE_CHECKING:
    from babygpt.data.module import LLMDataModule
    from babygpt.evaluate import evaluate
    from babygpt.generate import generate
    from babygpt.inspect_data import inspect_data
    from babygpt.machine import MachinePlan, MachineRequest
    from babygpt.recipe import (
        Budget,
        DataRecipe,
        ModelRecipe,
        OptimRecipe,
        Recipe,
        ScheduleRecipe,
        ValidateRecipe,
    )
    from babygpt.report.verb import report
    from babygpt.settings import (
        CheckpointPlan,
        EvalSettings,
        GenerateSettings,
        InspectSettings,
        ReportSettings,
        TrainSettings,
    )
    from babygpt.train import train
    from babygpt.training.checkpoint_io import FolderCheckpointIO
    from babygpt.training.fit import fit, validate
    from babygpt.training.module import BabyGPT

# Where the `kernels` package is installed, transformers would download compiled code for some layers and run it.
# It reads this when first imported; whoever wants those kernels sets it to YES.
os.environ.setdefault("USE_HUB_KERNELS", "NO")

__version__ = "0.1.0"

__all__ = [
    "BabyGPT",
    "BabyGPTError",
    "Budget",
    "CheckpointPlan",
    "DataRecipe",
    "EvalSettings",
    "FolderCheckpointIO",
    "GenerateSettings",
    "InputError",
    "InspectSettings",
    "LLMDataModule",
    "MachinePlan",
    "MachineRequest",
    "ModelRecipe",
    "OptimRecipe",
    "Recipe",
    "ReportSettings",
    "ScheduleRecipe",
    "Stopped",
    "TrainSettings",
    "ValidateRecipe",
    "evaluate",
    "fit",
    "generate",
    "inspect_data",
    "report",
    "train",
    "validate",
]

_NAMES_OF = {
    "data.module": ("LLMDataModule",),
    "evaluate": ("evaluate",),
    "generate": ("generate",),
    "inspect_data": ("inspect_data",),
    "machine": ("MachinePlan", "MachineRequest"),
    "recipe": (
        "Budget",
        "DataRecipe",
        "ModelRecipe",
        "OptimRecipe",
        "Recipe",
        "ScheduleRecipe",
        "ValidateRecipe",
    ),
    "report.verb": ("report",),
    "settings": (
        "CheckpointPlan",
        "EvalSettings",
        "GenerateSettings",
        "InspectSettings",
        "ReportSettings",
        "TrainSettings",
    ),
    "train": ("train",),
    "training.checkpoint_io": ("FolderCheckpointIO",),
    "training.fit": ("fit", "validate"),
    "training.module": ("BabyGPT",),
}
_HOME_OF = {name: f"babygpt.{module}" for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'babygpt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `babygpt.train` the function, whenever the file of the same name is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        # The import system binds each imported file to its package under the file's name.
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
