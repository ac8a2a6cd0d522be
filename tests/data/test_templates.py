"""What templates are given where a conversation holds data, against renderings written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from babygpt.data.templates import Template, as_wanted

PLAIN = (
    "{% for m in messages %}{{ m.role + ':' + (m.content or '') }}"
    "{% for c in m.tool_calls or [] %}{{ CALL }};{% endfor %}|{% endfor %}"
)
JOINED = PLAIN.replace("CALL", "c.function.name + c.function.arguments")
QUOTED = PLAIN.replace("CALL", "c.function.arguments | tojson")
EITHER = PLAIN.replace(
    "CALL", "c.function.arguments if c.function.arguments is string else c.function.arguments | tojson"
)
ENTRIES = PLAIN.replace(
    "CALL", "''}}{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}{{''"
)
# As Llama 3.1's, which writes everything but numbers as JSON.
LLAMA = (
    "{% for m in messages %}{% if m.content is mapping or m.content is iterable %}{{ m.content | tojson }}"
    "{% else %}{{ m.content }}{% endif %}|{% endfor %}"
)


def rendered(template: str, *messages: dict[str, Any]) -> str:
    template_of = Template(template, None, {})
    given = [dict(message) for message in messages]
    text = template_of.render(as_wanted(messages, template_of))
    assert [dict(message) for message in messages] == given
    return text


@pytest.mark.parametrize(
    ("content", "plain", "llama"),
    [
        (3, "3", "3"),
        (2.5, "2.5", "2.5"),
        (["Paris", 1], '["Paris", 1]', '["Paris", 1]'),
        ({"é": None}, '{"é": null}', '{"é": null}'),
        ([], "[]", "[]"),
        ("3", "3", '"3"'),
    ],
)
def test_what_a_tool_returns_is_json(content: Any, plain: str, llama: str) -> None:
    message = {"role": "tool", "content": content}
    assert rendered(PLAIN, message) == f"tool:{plain}|"
    assert rendered(LLAMA, message) == f"{llama}|"


def test_no_word_of_python_is_rendered() -> None:
    assert rendered(PLAIN, {"role": "tool", "content": True}) == "tool:true|"


@pytest.mark.parametrize("arguments", ['{"x": 1}', {"x": 1}], ids=["text", "object"])
@pytest.mark.parametrize(
    ("template", "wanted"),
    [(JOINED, 'f{"x": 1}'), (QUOTED, '{"x": 1}'), (EITHER, '{"x": 1}'), (ENTRIES, "x=1")],
    ids=["joined", "quoted", "either", "entries"],
)
def test_arguments_in_either_form_come_to_the_same(template: str, wanted: str, arguments: Any) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert rendered(template, asked) == f"assistant:{wanted};|"
    answer = {"role": "tool", "content": {"y": [2]}}
    assert rendered(template, asked, answer) == f'assistant:{wanted};|tool:{{"y": [2]}}|'


def test_arguments_that_are_no_json() -> None:
    def call(arguments: str) -> dict[str, Any]:
        return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}

    assert rendered(QUOTED, call("")) == "assistant:{};|"
    assert rendered(JOINED, call("x = 1")) == "assistant:fx = 1;|"
    with pytest.raises(ValueError, match="the arguments of a call are not JSON: x = 1"):
        rendered(QUOTED, call("x = 1"))


def test_what_a_bound_ends_is_not_tried_again() -> None:
    class Slow(Template):
        def render(self, messages: Any) -> str:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        as_wanted([{"role": "tool", "content": 1}], Slow("", None, {}))
