"""Several callbacks as one.

Lightning calls each of a dozen hooks a step on every callback, most of them empty, and spends a few microseconds on
each: of a small model's step that is a noticeable part. Here a hook is asked only of those that have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L

__all__ = ["Together"]

_HOOKS = [name for name in vars(L.Callback) if name.startswith("on_") or name in ("setup", "teardown")]


class Together(L.Callback):
    """Each hook of the callbacks, in their order.

    Args:
        callbacks: without a state of their own in checkpoints and without `self.log`, both of which Lightning gives
            to callbacks one by one.
    """

    def __init__(self, *callbacks: L.Callback) -> None:
        for name in _HOOKS:
            own = [
                getattr(c, name) for c in callbacks if getattr(type(c), name) is not getattr(L.Callback, name)
            ]
            if own:
                setattr(self, name, own[0] if len(own) == 1 else _in_turn(own))


def _in_turn(hooks: list[Callable[..., None]]) -> Callable[..., None]:
    def hook(*args: Any, **kwargs: Any) -> None:
        for each in hooks:
            each(*args, **kwargs)

    return hook
