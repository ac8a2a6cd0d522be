"""Dataclasses as trees of dotted fields: their names and types, and plain values in and out.

A recipe file and the command line know the same fields by the same dotted names (`optim.lr`), and check
them against the same type hints.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from babygpt.disk import expanded
from babygpt.errors import InputError, RecipeError
from babygpt.names import unknown_field
from babygpt.untrusted import parse_yaml, read_bytes

__all__ = [
    "Auto",
    "as_whole",
    "build",
    "check_number",
    "check_paths",
    "check_text",
    "check_whole",
    "convert",
    "describe",
    "flatten",
    "leaves",
    "plain",
    "read_yaml",
]

T = TypeVar("T")
Auto = Literal["auto"]

# YAML 1.1, which reads recipe files, takes 1e9 for text.
_POWER = re.compile(r"\d{1,20}(\.\d{1,20})?[eE]\+?\d{1,2}", re.ASCII)
_LARGEST_FILE = 1_000_000  # bytes; a recipe has some fifty lines


# -- names ---------------------------------------------------------------------------------------------------


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def leaves(cls: Any, prefix: str = "") -> dict[str, Any]:
    """The dotted names of a dataclass's fields, nested ones spelled out, each with its type hint."""
    found: dict[str, Any] = {}
    for field in fields(cls):
        name, hint = prefix + field.name, _hints(cls)[field.name]
        found.update(
            leaves(hint, f"{name}.") if isinstance(hint, type) and is_dataclass(hint) else {name: hint}
        )
    return found


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted names; an empty mapping vanishes."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found.update(flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return found


# -- values --------------------------------------------------------------------------------------------------

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


def _is_words(hint: Any) -> bool:
    origin: Any = typing.get_origin(hint)
    return origin is Literal


def describe(hint: Any) -> str:
    """A type hint in words: `float | Literal["auto"]` is "a number or auto"."""
    origin: Any = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(str(a) for a in args)
    if _is_union(hint):
        return " or ".join(describe(a) for a in args)
    if origin is tuple:
        if args[-1] is ...:
            return "a list of text" if args[0] is str else "a list of numbers"
        return f"{len(args)} numbers"
    return _WORDS.get(hint, str(hint))


def convert(value: Any, hint: Any, where: str) -> Any:
    """A plain value as the type of its field.

    Args:
        value: from YAML or JSON.
        hint: int, float, str, bool, None, Literal, a union of these, or a tuple of them.
        where: named in the error.

    Raises:
        RecipeError: the value is of another type.
    """
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    # A word that is asked for comes before the text that would take any word.
    for option in sorted(options, key=lambda o: not _is_words(o)):
        fitted = _fit(value, option)
        if fitted is not _MISFIT:
            return fitted
    advice = "Put it in quotes" if str in options and value is not None else None
    if typing.get_origin(hint) is tuple and isinstance(value, str):
        advice = f"Write [{value}]"
    raise RecipeError(f"{value!r} is not {describe(hint)}", where=where, hint=advice)


_MISFIT = object()


def _fit(value: Any, hint: Any) -> Any:
    """A value as a type that is no union, or `_MISFIT`."""
    origin: Any = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin is tuple:
        return _fit_list(value, args)
    if hint is float:
        # YAML 1.1 reads 1e-3, which has no point, as text.
        number = _as_float(value)
        return _MISFIT if number is None else number
    if hint is int and isinstance(value, str):
        whole = as_whole(value)
        return _MISFIT if whole is None else whole
    if hint is int and isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)  # YAML 1.1 reads 1.5e+6, with point and sign, as a number with a fraction
    if origin is Literal:
        fits = any(value == a and type(value) is type(a) for a in args)
    else:
        fits = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    return value if fits else _MISFIT


def _fit_list(value: Any, hints: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _MISFIT
    each = hints[:1] * len(value) if hints[-1] is ... else hints
    if len(each) != len(value):
        return _MISFIT
    fitted = tuple(_fit(v, h) for v, h in zip(value, each, strict=True))
    return _MISFIT if any(v is _MISFIT for v in fitted) else fitted


def _as_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def as_whole(text: str) -> int | None:
    """The whole number below 2**63 that is written with a power of ten, as 1e9 or 2.5e6; None for any other text."""
    number = Decimal(text) if _POWER.fullmatch(text) else None
    return int(number) if number is not None and number == int(number) and number < 2**63 else None


def build(cls: type[T], values: Mapping[str, Any], where: str | None = None) -> T:
    """A dataclass from a nested mapping of plain values; fields left out take their defaults.

    Args:
        cls: of frozen dataclasses all the way down.
        values: keys are field names.
        where: the file the values come from.

    Raises:
        InputError: an unknown name (with the nearest), a wrong type, or whatever the dataclass refuses.
    """
    for name in flatten(values):
        if name not in leaves(cls) and not _misplaced(cls, name):
            raise unknown_field(name, leaves(cls), where=where)
    try:
        built: T = _build(cls, values, "")
    except InputError as error:
        if where is None:
            raise
        inner = f"{where}: {error.where}" if error.where else where
        raise type(error)(error.what, where=inner, hint=error.hint) from None
    return built


def _misplaced(cls: type[Any], name: str) -> bool:
    """Whether a group holds a single value, or a field a mapping: the name is right and the type is not."""
    known = leaves(cls)
    return any(n.startswith(f"{name}.") for n in known) or any(name.startswith(f"{n}.") for n in known)


def _build(cls: Any, values: Mapping[str, Any], prefix: str) -> Any:
    hints = _hints(cls)
    given: dict[str, Any] = {}
    for name, value in values.items():
        where = f"{prefix}{name}"
        if name not in hints:
            raise RecipeError(f"there is no field {where}", hint="Write fields indented below their group")
        hint = hints[name]
        if not is_dataclass(hint):
            given[name] = convert(value, hint, where)
        elif isinstance(value, Mapping):
            given[name] = _build(hint, value, f"{where}.")
        else:
            inside = ", ".join(f.name for f in fields(hint))
            raise RecipeError(f"{value!r} is not a group of fields", where=where, hint=f"It holds {inside}")
    return cls(**given)


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as nested mappings of plain values, tuples as lists."""
    return {k: _listed(v) for k, v in asdict(value).items()}


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file's mapping.

    Raises:
        RecipeError: the file is missing, no YAML, or holds no mapping.
    """
    place = expanded(path)
    try:
        values = parse_yaml(read_bytes(place, _LARGEST_FILE))
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 at byte {error.start}", where=str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"is not YAML: {problem}", where=line) from None
    except ValueError as error:
        raise RecipeError(f"is no recipe: {str(error)[:200]}", where=str(path)) from None
    if not isinstance(values, dict) or not values:
        raise RecipeError("holds no fields", where=str(path), hint="babygpt train --print_config shows one")
    return values


# -- checks --------------------------------------------------------------------------------------------------


def check_text(where: str, value: Any) -> None:
    """Refuses what is no text, or empty."""
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(f"{value!r} is not a name", where=where)


def check_paths(where: str, value: Any) -> tuple[str, ...]:
    """Refuses what is no list of texts, a single text above all, which would pass for a list of letters."""
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) and v for v in value):
        raise RecipeError(f"{value!r} is not a list of paths", where=where)
    return tuple(value)


def check_whole(where: str, value: Any, *, least: int, most: int | None = None, auto: bool = False) -> None:
    """Refuses what is no whole number from `least` to `most`; `auto` allows the word."""
    if auto and value == "auto":
        return
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not fits or (most is not None and value > most):
        limits = f"of at most {most}" if fits else f"of at least {least}"
        raise RecipeError(f"{value!r} is not a whole number {limits}", where=where)


def check_number(
    where: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuses what is no finite number within the bounds; `above` and `below` are not within."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf
    if fits:
        fits = (least is None or value >= least) and (above is None or value > above)
        fits = fits and (most is None or value <= most) and (below is None or value < below)
    if not fits:
        bounds = {"of at least": least, "above": above, "of at most": most, "below": below}
        limits = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        raise RecipeError(f"{value!r} is not a number {limits}", where=where)
