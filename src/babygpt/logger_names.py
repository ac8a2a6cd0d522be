"""What `--log` may say: the tools that a run's metrics can be sent to, and whether they are installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from babygpt.errors import RecipeError
from babygpt.names import nearest

__all__ = ["LOGGERS", "check_installed", "check_names"]

# Each with the packages of which any will do; the first is the one to install.
LOGGERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}


def check_names(names: Sequence[str]) -> None:
    """Refuses what is no such tool, or is named twice.

    Raises:
        RecipeError: one of them is.
    """
    for name in names:
        if name not in LOGGERS:
            close = nearest(name, LOGGERS)
            hint = f"Did you mean {' or '.join(close)}" if close else f"There are {', '.join(LOGGERS)}"
            raise RecipeError(f"there is no logger {name!r}", where="log", hint=hint)
        if list(names).count(name) > 1:
            raise RecipeError(f"{name} is named twice", where="log", hint="Name each once")


def check_installed(names: Sequence[str]) -> None:
    """Refuses a tool that this Python does not have.

    Raises:
        RecipeError: one of them is missing.
    """
    for name in names:
        packages = LOGGERS[name]
        if not any(map(find_spec, packages)):
            raise RecipeError(
                f"{name} is not installed",
                where="log",
                hint=f"Install it with pip install {packages[0]}, or leave it out; metrics.jsonl holds everything",
            )
