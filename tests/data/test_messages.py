"""The forms of conversations that people have, against what chat templates are to be given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from babygpt.data.messages import conversation, withheld_turn
from babygpt.errors import DataError

ASKED, SAID = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = {"name": "f", "arguments": {"x": 1}}
CALLED = {"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}]}

# the messages as they stand in a record, and as templates want them
FORMS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "as they are": ([ASKED, SAID], [ASKED, SAID]),
    "ShareGPT": ([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], [ASKED, SAID]),
    "ShareGPT, capitals": ([{"from": "Human", "value": "q"}, {"from": "GPT", "value": "a"}], [ASKED, SAID]),
    "half and half": ([{"from": "user", "content": "q"}, {"role": "assistant", "value": "a"}], [ASKED, SAID]),
    "text": ([{"role": "prompter", "text": "q"}, {"role": "chatgpt", "text": "a"}], [ASKED, SAID]),
    "parts of text": (
        [
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            SAID | {"content": ["a", {"text": ""}]},
        ],
        [ASKED, SAID],
    ),
    "parts of a table whose rows differ": (
        [
            {"role": "user", "content": [{"type": None, "text": "q", "image": None}]},
            SAID | {"content": [{"type": "text", "text": "a"}]},
        ],
        [ASKED, SAID],
    ),
    "other roles": ([{"role": "developer", "content": "d"}], [{"role": "developer", "content": "d"}]),
    "a table's nulls": ([ASKED | {"from": None, "value": None, "tool_calls": None}], [ASKED]),
    "LLaMA-Factory's call": (
        [{"from": "function_call", "value": json.dumps(CALL)}, {"from": "observation", "value": "3"}],
        [CALLED, {"role": "tool", "content": "3"}],
    ),
    "a call with its wrapping": (
        [{"from": "function_call", "value": json.dumps(CALLED["tool_calls"])}],
        [CALLED],
    ),
    "a call that is not learned": (
        [{"from": "function_call", "value": json.dumps(CALL), "train": False}],
        [CALLED | {"weight": 0}],
    ),
    "a call that is learned": ([{"from": "function_call", "value": json.dumps(CALL), "weight": 1}], [CALLED]),
    "a role of that name": (
        [{"role": "function_call", "content": "c"}],
        [{"role": "function_call", "content": "c"}],
    ),
    "bare calls as JSON": ([CALLED | {"tool_calls": json.dumps([CALL])}], [CALLED]),
    "no calls in a column of text": ([SAID | {"tool_calls": ""}, SAID | {"tool_calls": "[]"}], [SAID, SAID]),
    "calls as JSON": ([CALLED | {"tool_calls": json.dumps(CALLED["tool_calls"])}], [CALLED]),
    "a call beside null": ([CALLED | {"content": None}], [CALLED | {"content": None}]),
    "an object of a tool": ([{"role": "tool", "content": {"x": 1}}], [{"role": "tool", "content": {"x": 1}}]),
    "a tool's number": ([{"role": "tool", "content": 3}], [{"role": "tool", "content": 3}]),
    "a tool's list": ([{"from": "observation", "value": ["a", 1]}], [{"role": "tool", "content": ["a", 1]}]),
    "a tool's objects": (
        [{"role": "tool", "content": [{"type": "hotel", "text": "x"}]}],
        [{"role": "tool", "content": [{"type": "hotel", "text": "x"}]}],
    ),
    "a tool's text in parts": (
        [{"role": "tool", "content": [{"type": "text", "text": "x"}, {"type": None, "text": "y"}]}],
        [{"role": "tool", "content": "xy"}],
    ),
    "weights that change nothing": (
        [{"role": "system", "content": "s", "weight": "low"}, ASKED | {"weight": 0.5}, SAID],
        [{"role": "system", "content": "s"}, ASKED, SAID],
    ),
    "weight": ([ASKED, SAID | {"weight": 0}, SAID | {"weight": 1}], [ASKED, SAID | {"weight": 0}, SAID]),
    "train": ([ASKED | {"train": False}, SAID | {"train": False}], [ASKED, SAID | {"weight": 0}]),
}


@pytest.mark.parametrize(("value", "wanted"), FORMS.values(), ids=FORMS)
def test_all_forms_come_to_one(value: Any, wanted: list[dict[str, Any]]) -> None:
    assert conversation(value, "messages", "w") == tuple(wanted)
    assert conversation(json.dumps(value), "messages", "w") == tuple(wanted)


def test_a_system_column_is_the_first_turn() -> None:
    system = {"role": "system", "content": "be"}
    assert conversation([ASKED], "messages", "w", "be") == (system, ASKED)
    for again in ("", "be", "be\n", [{"type": "text", "text": "be"}]):
        assert conversation([system, ASKED], "messages", "w", again) == (system, ASKED)
    named = system | {"name": "n"}
    assert conversation([named, ASKED], "messages", "w", "be") == (named, ASKED)
    with pytest.raises(
        DataError, match="w: a system turn stands in field 'messages' and another in field 'system'"
    ):
        conversation([system, ASKED], "messages", "w", "be not")
    with pytest.raises(DataError, match=r"w: field 'system' holds a number, not a string. It is read as the"):
        conversation([ASKED], "messages", "w", 3)


def test_who_speaks_has_to_be_known() -> None:
    with pytest.raises(DataError, match="message 1 of field 'x' is from 'martian', which is no known role"):
        conversation([{"from": "human", "value": "q"}, {"from": "martian", "value": "a"}], "x", "w")


def test_a_turn_that_is_marked_to_be_left_out_is_found_whoever_speaks() -> None:
    assert withheld_turn([ASKED, SAID, ASKED, SAID | {"weight": 0}]) == 3
    assert withheld_turn([ASKED | {"train": False}, SAID]) == 0
    assert withheld_turn(json.dumps([ASKED, SAID | {"train": False}])) == 1
    assert withheld_turn([ASKED | {"weight": None}, SAID | {"weight": 1, "train": True}]) is None
    assert withheld_turn([ASKED | {"weight": "low"}, SAID]) is None
