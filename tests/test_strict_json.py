"""What every reader of JSON takes."""

from __future__ import annotations

import json
import math
from typing import Any

from babygpt.strict_json import dumped, finite


def refused(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def test_numbers_that_are_not_finite_become_null_wherever_they_stand() -> None:
    value = {"a": math.nan, "b": [1.5, -math.inf, ({"c": math.inf},)], "d": "NaN", "e": True, "f": 10**30}
    wanted = {"a": None, "b": [1.5, None, [{"c": None}]], "d": "NaN", "e": True, "f": 10**30}
    assert finite(value) == wanted
    assert json.loads(dumped(value), parse_constant=refused) == wanted
    assert math.isnan(value["a"]), "the value itself is left alone"


def test_letters_of_every_language() -> None:
    assert dumped(["ä"], ensure_ascii=False) == '["ä"]'
    assert dumped(["ä"]) == '["\\u00e4"]'
