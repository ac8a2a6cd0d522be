"""JSON as every program reads it: there is no infinity in it and no NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["dumped", "finite"]


def finite(value: Any) -> Any:
    """The same plain value with null for each number that is not finite, and lists for tuples."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def dumped(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """A plain value as JSON text, after `finite`."""
    return json.dumps(finite(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
